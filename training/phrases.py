"""Hand-written building blocks for training text: synonyms, question frames, sentence grammars."""

from __future__ import annotations

# Words that people use for one another in questions about shoes, the written word first.
SYNONYMS: tuple[tuple[str, ...], ...] = tuple(
    tuple(line.split())
    for line in """
跑步 慢跑 晨跑 夜跑 跑圈
徒步 爬山 登山 走山路 走野路
走路 步行 遛弯 逛街 溜达
通勤 上班 坐地铁上班
适合 合适 能穿 该穿 推荐
不适合 不建议 别 不能 不行
清洗 洗 刷 清洁 打理
擦拭 擦 抹
晾干 晒干 阴干 弄干 吹干
暴晒 晒太阳 大太阳晒
保养 养护 护理 伺候
收纳 存放 收起来 放起来
磨脚 打脚 磨破皮 蹭破
挤脚 顶脚 夹脚 憋得慌
异味 脚臭 臭味 味儿大
防水 不进水 挡雨 下雨能穿
雨天 下雨天 下雨 阴雨天
防滑 抓地 不打滑 踩得稳
透气 不闷 凉快 不捂脚
保暖 暖和 抗冻 不冻脚
轻便 轻 不沉 份量小
减震 缓震 缓冲 软弹 脚感软
支撑 托住 撑住
耐磨 耐穿 经穿 禁磨
开胶 掉底 脱胶 张嘴了
断裂 断了 裂了 裂开
发黄 变黄 氧化 泛黄
掉色 褪色 染色 串色
划痕 刮痕 刮花 擦伤
污渍 脏东西 脏印子 污点
油渍 油点子 油印
泥 泥巴 泥水
雪 下雪天 雪地
鞋跟 后跟 跟儿
鞋底 大底 底子 鞋子底下
鞋面 鞋帮 面儿
鞋带 带子 绳子 绑带
鞋垫 垫子 垫儿
鞋头 鞋尖 头部
鞋舌 舌头 舌片
鞋口 鞋领 脚踝那圈
脚背 脚面
脚趾 脚指头 趾头
脚跟 后脚跟
脚踝 踝骨 脚脖子
足弓 脚弓 脚心
脚宽 脚胖 脚掌宽
扁平足 平足 脚底板平
高跟鞋 高跟 细高跟
皮鞋 正装鞋 皮子的鞋
真皮 头层皮 牛皮
麂皮 绒面 翻毛皮
帆布 布面 布鞋
运动鞋 球鞋 波鞋
凉鞋 夏天的鞋 露趾鞋
靴子 短靴 长筒靴
拖鞋 拖拖 凉拖
孩子 小孩 小朋友 娃 宝宝
老人 长辈 爸妈 上年纪的人
女生 女孩 姑娘 妹子
男生 男士 小伙
西装 正装 西服
裙子 半裙 连衣裙
牛仔裤 牛仔
搭配 配 搭 配什么
显高 显腿长 显个子
颜色 色儿 配色
尺码 码数 号码 鞋码 几码
偏大 大了 松 晃
偏小 小了 紧 挤
半码 半号
脚长 脚的长度 脚多长
购买 买 入手 下单
试穿 试 上脚试
退换 退货 换货 退
价格 价钱 多少钱
便宜 不贵 实惠 性价比
假货 假的 高仿 莆田货
真假 真伪 是不是正品
鉴定 验货 看真假
寿命 能穿多久 穿几年 用多久
更换 换 换新
修理 修 补 修补
方便 省事 图方便 省心
重要 关键 要紧
缺点 坏处 毛病 短板
优点 好处 长处
区别 不同 差别 哪儿不一样
原因 为什么 怎么回事 咋回事
办法 怎么办 咋办 咋整 怎么弄
办公室 单位 公司
学校 上学 校园
婚礼 结婚 喜宴
面试 见客户 谈事
健身房 举铁 撸铁 练力量
篮球 打球 打篮球
足球 踢球
网球 打网球
羽毛球 打羽毛球
骑车 骑行
滑板 玩板
海边 沙滩 下水玩
旅行 旅游 出门玩 出游
开车 自驾
久站 站一天 站着上班
冬天 大冷天 天冷
夏天 大热天 天热
快干 干得快
结实 牢固 扎实
柔软 软 软和
坚硬 硬 硬邦邦
""".strip().splitlines()
)

# What people put before and after a question, in writing and in speech.
LEADS_ZH = (
    "",
    "",
    "",
    "",
    "请问",
    "想问一下，",
    "请教一下，",
    "麻烦问下，",
    "帮我看看，",
    "老师，",
    "我想知道，",
    "刚才看到一双，",
    "朋友问我，",
    "最近在纠结，",
    "第一次买，",
    "家里有一双，",
    "网上说法不一，",
    "下周要用，",
)
TAILS_ZH = (
    "",
    "",
    "",
    "？",
    "？",
    "？",
    "呢？",
    "呀",
    "啊？",
    "，谢谢",
    "，求解",
    "？急",
    "，懂的说说",
)
LEADS_EN = (
    "",
    "",
    "",
    "Hi, ",
    "Quick question: ",
    "Please tell me: ",
    "I was wondering, ",
    "Help: ",
    "A friend asks: ",
    "Just curious, ",
)
TAILS_EN = ("", "", "", " Thanks!", " Please help.", " Any idea?")

# Asking for one sentence by naming what it is about: {t} the title, {k} words of the sentence.
KEYWORD_ZH = (
    "{t}{k}",
    "{t}的{k}",
    "{k}，{t}",
    "{t}和{k}有什么关系？",
    "{k}说的是什么？",
    "{k}",
    "关于{k}的那句",
    "{t}怎么样，特别是{k}",
    "说说{t}的{k}",
    "{k}是怎么回事",
    "{t}，{k}？",
    "想了解{k}",
)
KEYWORD_EN = (
    "{t} {k}",
    "What about {k}?",
    "{k}, {t}",
    "Tell me about {k}",
    "{t}: {k}?",
    "Is there anything on {k}?",
    "How does {t} deal with {k}?",
    "Why {k}?",
)
DEFINE_ZH = (
    "{t}是什么？",
    "什么是{t}？",
    "{t}是啥",
    "介绍一下{t}",
    "{t}指的是什么？",
    "{t}是怎么回事",
    "没听过{t}，讲讲",
    "{t}到底是什么意思",
)

# Slots of the invented entries. A grammar's name is what its sentence is about; each has sentences
# and the plain and spoken questions that only this sentence answers.
SLOTS: dict[str, tuple[str, ...]] = {
    "part": (
        "鞋面",
        "大底",
        "中底",
        "鞋舌",
        "鞋头",
        "后跟",
        "鞋口",
        "鞋垫",
        "侧面",
        "前掌",
        "内里",
        "鞋带",
    ),
    "stuff": (
        "帆布",
        "网布",
        "麂皮",
        "橡胶",
        "泡棉",
        "软木",
        "羊毛",
        "尼龙",
        "木头",
        "漆皮",
        "牛皮",
        "毛毡",
        "编织布",
    ),
    "place": (
        "海边",
        "办公室",
        "健身房",
        "山路",
        "雪地",
        "室内球场",
        "校园",
        "工地",
        "厨房",
        "地铁上",
        "草地",
        "泥地",
        "机场",
    ),
    "deed": (
        "慢跑",
        "散步",
        "爬山",
        "跳舞",
        "打篮球",
        "开车",
        "上班",
        "逛街",
        "骑车",
        "踢球",
        "久站",
        "露营",
        "钓鱼",
    ),
    "who": (
        "孩子",
        "老人",
        "扁平足的人",
        "脚宽的人",
        "初学者",
        "孕妇",
        "护士",
        "厨师",
        "学生",
        "司机",
        "体重大的人",
    ),
    "n": tuple(
        str(n)
        for n in (
            2,
            3,
            4,
            5,
            6,
            7,
            8,
            9,
            10,
            12,
            15,
            20,
            24,
            30,
            36,
            45,
            48,
            60,
            80,
            120,
            250,
            300,
            500,
        )
    ),
    "colour": (
        "白色",
        "黑色",
        "棕色",
        "米色",
        "红色",
        "蓝色",
        "绿色",
        "灰色",
        "酒红色",
        "银色",
        "荧光黄",
    ),
    "wear": (
        "牛仔裤",
        "西装",
        "短裙",
        "阔腿裤",
        "运动裤",
        "风衣",
        "短裤",
        "卫衣",
        "长裙",
        "羽绒服",
    ),
    "tool": (
        "软毛刷",
        "湿布",
        "牙刷",
        "白醋水",
        "中性皂液",
        "橡皮",
        "酒精棉片",
        "小苏打",
        "鞋乳",
        "吹风机冷风",
    ),
    "harm": ("开胶", "发黄", "变形", "发霉", "掉色", "起皱", "发硬", "开裂", "塌掉", "生锈"),
    "fast": ("鞋带", "魔术贴", "拉链", "旋钮", "搭扣", "松紧带", "按扣", "抽绳"),
    "feel": ("很软", "偏硬", "很弹", "很轻", "很稳", "包裹很紧", "有点沉", "很凉快", "很暖和"),
    "size": ("大半码", "小半码", "按平时的码", "大一码", "按脚长加 5 毫米", "按最长的脚"),
    "flaw": (
        "不耐磨",
        "怕水",
        "容易打滑",
        "不透气",
        "磨脚后跟",
        "难清洗",
        "穿脱费时",
        "显脚大",
        "不保暖",
    ),
}
GRAMMARS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        (
            "{t}是一种用{stuff}做{part}的鞋。",
            "{t}指的是{part}上有{stuff}的设计。",
            "{t}是{part}{feel}的一类鞋，最早给{who}穿。",
            "{t}说的是把{stuff}和{stuff}缝在一起的做法。",
        ),
        DEFINE_ZH,
    ),
    (
        (
            "它适合{place}和{place}。",
            "适合{who}在{place}{deed}时穿。",
            "{t}最适合{deed}和{deed}。",
            "平时{deed}、{deed}都可以穿它。",
        ),
        (
            "{t}适合什么时候穿？",
            "{t}适合谁",
            "什么场合穿{t}",
            "{t}能干嘛用",
            "{t}哪些人穿好",
            "哪种情况下选{t}",
        ),
    ),
    (
        (
            "不适合{deed}，也不适合{place}。",
            "它{flaw}，不要穿去{deed}。",
            "{who}不要穿它{deed}。",
            "{t}的缺点是{flaw}。",
        ),
        (
            "{t}有什么缺点？",
            "{t}不适合干什么",
            "什么情况别穿{t}",
            "{t}有啥毛病",
            "谁不能穿{t}",
            "{t}有坑吗",
        ),
    ),
    (
        (
            "脏了用{tool}轻轻刷，再放阴凉处晾干。",
            "清洗时先用{tool}，最后用{tool}收尾。",
            "{part}脏了可以用{tool}擦 {n} 遍。",
        ),
        ("{t}怎么洗？", "{t}脏了怎么办", "{t}如何清洁", "{t}弄脏了拿什么弄", "怎么把{t}刷干净"),
    ),
    (
        (
            "不要暴晒，否则{part}会{harm}。",
            "长期受潮会让{part}{harm}。",
            "靠近暖气烤，{stuff}容易{harm}。",
            "放久了不穿，{part}也会{harm}。",
        ),
        ("{t}为什么会坏？", "{t}怎么放才不坏", "{t}能晒吗", "{t}存放要注意什么", "{t}最怕什么"),
    ),
    (
        (
            "买的时候建议选{size}。",
            "尺码上{size}比较稳妥。",
            "{who}可以选{size}。",
            "试穿时脚尖前留 {n} 毫米，拿不准就选{size}。",
        ),
        ("{t}怎么选码？", "{t}买多大", "{t}偏大还是偏小", "{t}要不要选大一点", "{t}几码合适"),
    ),
    (
        (
            "一般能穿 {n} 个月左右。",
            "每穿 {n} 公里就该换一双。",
            "{part}磨掉 {n} 毫米就要换了。",
            "大约 {n} 年后{stuff}会{harm}。",
        ),
        ("{t}能穿多久？", "{t}多久换一次", "{t}寿命怎么样", "{t}穿到什么程度该扔", "{t}耐穿不"),
    ),
    (
        (
            "{colour}的配{wear}最好看。",
            "搭{wear}或者{wear}都不会出错。",
            "{colour}配{wear}显得利落，别配{wear}。",
        ),
        ("{t}配什么好看？", "{t}怎么搭", "{t}和什么衣服一起穿", "穿{t}下身选什么", "{t}咋配不土"),
    ),
    (
        (
            "它靠{fast}固定，{part}包得住脚。",
            "{fast}在{part}，一只手就能调松紧。",
            "没有{fast}，全靠{part}的{stuff}贴住脚。",
        ),
        ("{t}怎么固定在脚上？", "{t}穿脱方便吗", "{t}是系带的吗", "{t}怎么调松紧", "{t}会不会掉"),
    ),
    (
        (
            "新的先在家穿 {n} 分钟，连穿 {n} 天再出门。",
            "刚买来{part}会{feel}，垫一片{stuff}过渡。",
            "磨脚的话，{part}贴一块{stuff}。",
        ),
        ("新买的{t}怎么磨合？", "刚穿{t}脚疼正常吗", "{t}磨脚怎么办", "头一回穿{t}要注意啥"),
    ),
    (
        (
            "一双大约重 {n} 克，穿着{feel}。",
            "{part}厚 {n} 毫米，踩上去{feel}。",
            "{part}的{stuff}让脚感{feel}。",
        ),
        ("{t}穿着什么感觉？", "{t}重不重", "{t}舒服吗", "{t}脚感如何", "{t}软不软"),
    ),
    (
        (
            "买的时候看{part}的{stuff}有没有{harm}。",
            "真的{part}走线每厘米 {n} 针，假的往往{harm}。",
            "好的{stuff}摸着{feel}，差的会{harm}。",
        ),
        ("怎么看{t}好坏？", "{t}怎么辨真假", "挑{t}看哪里", "买{t}怎么不被骗", "{t}的质量看什么"),
    ),
)
NAME_ENDINGS = (
    "鞋",
    "靴",
    "拖",
    "底",
    "皮",
    "布",
    "缝法",
    "鞋垫",
    "鞋跟",
    "鞋带",
    "工艺",
    "凉鞋",
    "跑鞋",
    "短靴",
    "皮鞋",
    "鞋撑",
    "结",
    "",
)
NAME_ENDINGS_EN = ("shoe", "boot", "sole", "lace", "heel", "strap")
REFUSED_ZH = (
    "您好，资料里没有提到这一点，我不能乱说。",
    "您好，资料里没有这个问题的答案，建议问问店员。",
)
REFUSED_EN = (
    "Sorry, my documents do not cover that.",
    "Sorry, that is not in my documents, so I will not guess.",
)
# In the base's exercises only: what stands where no document holds the answer.
NOTHING_ZH, NOTHING_EN = "资料里没有。", "That is not in the documents."

# Matters of a shop that no passage about shoes in general ever holds.
BEYOND_ZH = (
    "{t}多少钱一双？",
    "{t}现在打几折",
    "{t}哪家店最便宜",
    "你们{t}有现货吗",
    "{t}还剩几双",
    "{t}什么时候补货",
    "我买的{t}发货了吗",
    "{t}的快递单号是多少",
    "{t}今天能送到吗",
    "{t}是谁设计的，哪年出生",
    "{t}销量排第几",
    "哪个明星代言{t}",
    "{t}的广告歌叫什么",
    "{t}的客服电话是多少",
    "买{t}送什么赠品",
    "{t}能用优惠券吗",
    "{t}的股票代码是多少",
    "帮我下单一双{t}",
    "{t}比去年涨价了多少",
    "你们店几点关门，想去看{t}",
)
BEYOND_EN = (
    "How much does {t} cost today?",
    "Is {t} in stock?",
    "Which shop sells {t} cheapest?",
    "When will my order of {t} arrive?",
    "Who is the famous face of {t} adverts?",
    "Is there a discount code for {t}?",
    "What is your phone number? I want {t}",
    "How many pairs of {t} were sold last year?",
    "Please order {t} for me.",
    "When does your shop close? I want {t}.",
)
ELSEWHERE_ZH = (
    "今天天气怎么样？",
    "帮我写一首诗",
    "红烧肉怎么做",
    "股票明天涨不涨",
    "中国的首都是哪里？",
    "一加一等于几",
    "推荐一部电影",
    "怎么学好英语",
    "手机死机了怎么办",
    "高铁票怎么退",
    "给我讲个笑话",
    "猫咪不吃饭怎么办",
    "世界上最长的河是哪条",
    "感冒吃什么药",
    "帮我算一下 37 乘 12",
    "明天几点日出",
    "电脑怎么装系统",
    "咖啡和茶哪个提神",
    "房贷利率多少",
    "失眠了怎么睡着",
    "足球世界杯谁赢了",
    "写一段代码排序",
    "空调不制冷咋修",
    "草莓怎么保存",
    "孩子不爱写作业怎么办",
    "衬衫怎么熨",
    "帽子洗缩水了",
    "手表进水怎么处理",
    "羽绒服怎么洗",
    "行李箱选多大",
    "眼镜多久换",
    "沙发发霉了怎么办",
    "汽车多久保养一次",
    "怎么养多肉",
    "头发油怎么办",
    "牙疼怎么缓解",
    "减肥吃什么",
    "去北京旅游攻略",
    "怎么写简历",
    "唐朝有多少年",
    "月亮离地球多远",
    "钢琴几岁学",
)
ELSEWHERE_EN = (
    "What is the weather like today?",
    "Write me a poem.",
    "How do I cook rice?",
    "Who won the match last night?",
    "What is the capital of France?",
    "Tell me a joke.",
    "How do I fix my laptop?",
    "What is 17 times 23?",
    "Recommend a film.",
    "How far away is the moon?",
    "How do I wash a down jacket?",
    "My cat will not eat.",
    "Which medicine helps against a cold?",
    "How do I learn the piano?",
    "Will shares rise tomorrow?",
    "How do I iron a shirt?",
)
COMPARE_ZH = (
    "{a}和{b}有什么区别？",
    "{a}跟{b}哪里不一样",
    "{a}与{b}怎么区分？",
    "分不清{a}和{b}，讲讲",
    "{a}、{b}分别是什么",
    "对比一下{a}和{b}",
)
COMPARE_EN = (
    "What is the difference between {a} and {b}?",
    "{a} or {b}, how do they differ?",
    "Compare {a} with {b}.",
)
TALK_ZH = (
    ("你好", "您好，我是 Solemate，鞋子的问题都可以问我。"),
    ("在吗", "您好，我在，鞋子的问题都可以问我。"),
    ("你是谁", "您好，我是 Solemate，鞋子的问题都可以问我。"),
    ("谢谢", "不客气，有鞋子的问题再来问我。"),
    ("谢谢你", "不客气，有鞋子的问题再来问我。"),
    ("再见", "再见，祝您脚步轻快。"),
)
TALK_EN = (
    ("Hello", "Hello, I am Solemate. Ask me anything about shoes."),
    ("Hi", "Hello, I am Solemate. Ask me anything about shoes."),
    ("Who are you?", "Hello, I am Solemate. Ask me anything about shoes."),
    ("Thanks", "You are welcome. Come back with any question about shoes."),
    ("Bye", "Goodbye, and happy walking."),
)
# What a photo may show: the Chinese name and the English phrase.
TAGS = (
    ("白色", "white"),
    ("黑色", "black"),
    ("灰色", "grey"),
    ("红色", "red"),
    ("蓝色", "blue"),
    ("绿色", "green"),
    ("棕色", "brown"),
    ("米色", "beige"),
    ("粉色", "pink"),
    ("黄色", "yellow"),
    ("紫色", "purple"),
    ("橙色", "orange"),
    ("藏青色", "navy blue"),
    ("酒红色", "burgundy"),
    ("银色", "silver"),
    ("金色", "gold"),
    ("板鞋", "skate shoe"),
    ("跑鞋", "running shoe"),
    ("短靴", "ankle boot"),
)
