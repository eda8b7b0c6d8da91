"""Every sentence that people read, in Chinese and English, in one place."""

from __future__ import annotations

from collections.abc import Sequence

from core.errors import SolemateError
from core.messages import ImageTag, Language, Passage

SENTENCES: dict[str, dict[Language, str]] = {
    # The expert speaks.
    "greeting": {
        "zh": "你好，我是 Solemate，懂鞋的那个朋友。"
        "尺码、材质、保养、搭配都可以问我，也可以发一张鞋的照片。",
        "en": "Hi, I am Solemate, the friend who knows shoes. Ask me about sizes, materials, care "
        "or styling, or send me a photo of a shoe.",
    },
    "thanks": {"zh": "不客气，穿得舒服最重要！", "en": "You are welcome. Enjoy your shoes!"},
    "agreed": {
        "zh": "好的。还有想问的，直接说就行。",
        "en": "Good. Just ask if there is anything else.",
    },
    "denied": {
        "zh": "好，那请换个说法再问我一次，说得具体一点，我重新找找。",
        "en": "All right. Ask me again in other words, as exactly as you can, and I look again.",
    },
    "robot": {
        "zh": "我是个程序，不是真人。我叫 Solemate，专门聊鞋，说的都出自我的资料。",
        "en": "I am a program, not a person. My name is Solemate, and what I say about shoes comes "
        "from my notes.",
    },
    "goodbye": {"zh": "再见，走得开心！", "en": "Goodbye, happy walking!"},
    "complaint": {
        "zh": "抱歉，没答好。点一下那条回答下面的 👎，告诉我该怎么说，我会学着改。",
        "en": "Sorry about that. Press 👎 under the answer and tell me what I should have said: I "
        "learn from it.",
    },
    "distress": {
        "zh": "听起来你现在很不好受。我只懂鞋，帮不上这个忙，但有人可以：请现在就和你信任的人说说，"
        "或拨打心理援助热线 12356；有危险请拨 120 或 110。",
        "en": "That sounds very hard. I only know shoes, but others can help: please talk to "
        "somebody you trust now, or call a crisis line (988 in the US and Canada, 116 123 in the "
        "UK and Ireland). In danger, call the emergency number.",
    },
    "weather": {
        "zh": "天气我看不了，我只懂鞋。下雨天穿什么鞋，倒可以问我。",
        "en": "I cannot see the weather, I only know shoes; but ask me what to wear in the rain.",
    },
    "refused": {
        "zh": "这个我的资料里没有，不敢乱说。换个说法，或者问问别的鞋类问题吧。",
        "en": "My notes do not cover that, and I will not guess. Try other words, or ask me "
        "something else about shoes.",
    },
    "unpriced": {
        "zh": "价格我不知道：款式、店家和时间不同，价钱也不同，以店里的标价为准。鞋怎么挑、怎么穿、"
        "怎么养，可以问我。",
        "en": "I do not know any prices: they differ by model, shop and day, so go by what the "
        "shop says. Do ask me how to choose, wear or care for shoes.",
    },
    "clarify": {"zh": "你想问的是哪一个：{choices}？", "en": "Which one do you mean: {choices}?"},
    "clarify_one": {"zh": "你想问的是{choices}吗？", "en": "Do you mean {choices}?"},
    "lacking": {
        "zh": "《{title}》那一条里没说这个。",
        "en": "My entry “{title}” does not say that. ",
    },
    "clarify_other": {"zh": "那你想问的是{choices}？", "en": "Then do you mean {choices}?"},
    "clarify_other_one": {"zh": "那你想问的是{choices}吗？", "en": "Then do you mean {choices}?"},
    "closest": {
        "zh": "我手头最接近的是{sources}：\n\n{texts}",
        "en": "The closest I have {sources}:\n\n{texts}",
    },
    "closest_or": {
        "zh": "要是你问的是{choices}，跟我说一声就行。",
        "en": "If you meant {choices}, just say so.",
    },
    "closest_only": {
        "zh": "要是问的不是这个，换个说法再问我一次吧。",
        "en": "If that is not what you meant, ask me again in other words.",
    },
    "title": {"zh": "《{title}》", "en": "“{title}”"},
    "or": {"zh": "，还是", "en": ", or "},
    "either": {"zh": "或", "en": " or "},
    "listed": {"zh": "、", "en": ", "},
    "quoted": {
        "zh": "我现在没法组织回答，先引用{sources}的原文：\n\n{texts}",
        "en": "I cannot compose an answer right now, so here {sources}, word for word:\n\n{texts}",
    },
    "quoted_unsure": {
        "zh": "为了不说错，我直接引用{sources}的原文：\n\n{texts}",
        "en": "To be sure not to get it wrong, here {sources}, word for word:\n\n{texts}",
    },
    # Where words that were shown cannot be taken back.
    "withdrawn": {
        "zh": "（前面的话我收回，请以下面的为准。）",
        "en": "(I take back what I said above; please go by what follows.)",
    },
    "source_of": {"zh": "资料《{title}》", "en": "is my source “{title}”"},
    "sources_of": {
        "zh": "资料《{title}》和《{other}》",
        "en": "are my sources “{title}” and “{other}”",
    },
    "other_language": {
        "zh": "我会中文和英文，请用其中一种问我。 / "
        "I speak Chinese and English; please ask me in one of them.",
        "en": "I speak Chinese and English; please ask me in one of them. / "
        "我会中文和英文，请用其中一种问我。",
    },
    # A message without words does not tell which language its sender reads.
    "no_words": {
        "zh": "请用一句话问我，比如“帆布鞋怎么洗？” / Ask me in a sentence, please.",
        "en": "Ask me in a sentence, please, like “How do I clean white shoes?” / 请用一句话问我。",
    },
    "photo_seen": {"zh": "照片里我看到：{tags}。", "en": "In the photo I see: {tags}."},
    "photo_unseen": {
        "zh": "这张照片的颜色我看不准。",
        "en": "I cannot make out the colour in this photo.",
    },
    "photo_limits": {
        "zh": "我这里只能辨认颜色，款式和花纹要接上 CLIP 模型才看得出。",
        "en": "I can only tell colours here; style and pattern need the CLIP model.",
    },
    "photo_question": {
        "zh": "你想了解这双鞋的什么？",
        "en": "What would you like to know about it?",
    },
    "about": {"zh": "可能是{tag}", "en": "possibly {tag}"},
    "photo_differs": {
        "zh": "照片里看起来是{seen}，我按你说的{said}来回答。",
        "en": "In the photo I see {seen}; I go by the {said} you mention.",
    },
    "stopped": {"zh": "（已停止）", "en": "(stopped)"},
    "cut": {"zh": "……（没说完）", "en": "… (cut short)"},
    # What went wrong.
    "failed": {
        "zh": "抱歉，这条没能处理成功。请稍后再发一次。",
        "en": "Sorry, I could not handle that one. Please send it again in a while.",
    },
    "unavailable": {
        "zh": "现在没法回答，请稍后再试。",
        "en": "I cannot answer right now; please try again in a while.",
    },
    "busy": {
        "zh": "现在有点忙，请 {seconds} 秒后再试。",
        "en": "I am rather busy; please try again in {seconds} seconds.",
    },
    "busy_day": {
        "zh": "一天里我最多回答你 {limit} 条消息，请大约 {hours} 小时后再来。",
        "en": "I take no more than {limit} messages a day from one person; please come back in "
        "about {hours} h.",
    },
    "busy_photos": {
        "zh": "照片我一分钟最多看 {limit} 张，请 {seconds} 秒后再发；文字问题现在就可以问。",
        "en": "I look at no more than {limit} photos a minute; please send more in {seconds} "
        "seconds. Questions without one are welcome now.",
    },
    "text_empty": {
        "zh": "消息是空的，请写下问题或附上照片。",
        "en": "The message is empty; write a question or attach a photo.",
    },
    "text_long": {
        "zh": "消息太长了（{length} 个字符），请缩短到 {limit} 个以内。",
        "en": "The message is too long ({length} characters); please keep it under {limit}.",
    },
    "photo_format": {
        "zh": "这张图片的格式我打不开，请发 JPEG、PNG、WebP 或 GIF。",
        "en": "I cannot open that picture; please send JPEG, PNG, WebP or GIF.",
    },
    "photo_heic": {
        "zh": "这是 HEIC 照片，我还打不开。请在相册里导出为 JPEG，或者直接截屏发给我。",
        "en": "That is a HEIC photo, which I cannot open. Export it as JPEG, or send a screenshot.",
    },
    "photo_large": {
        "zh": "这张照片太大了，请缩小后再发。",
        "en": "That photo is too large; please make it smaller and send it again.",
    },
    "photo_broken": {
        "zh": "这张照片不完整或已损坏，请重新拍一张或再发一次。",
        "en": "That photo is incomplete or damaged; please take or send it again.",
    },
    "photo_many": {
        "zh": "一次最多发 {limit} 张照片。",
        "en": "Please send at most {limit} photos at once.",
    },
    "photo_shape": {
        "zh": "这张图片太长或太窄了，请把鞋裁出来再发。",
        "en": "That picture is too long and narrow; crop it to the shoe and send it again.",
    },
    # The terminal.
    "chat_help": {
        "zh": "+ 或 - 评价上一个回答，- 后面可以写上你认为正确的回答；"
        "/new 换个话题，/help 再看一遍，/quit 或空行结束。",
        "en": "+ or - rates the last answer, - may be followed by what I should have said; "
        "/new starts afresh, /help shows this again, /quit or an empty line ends.",
    },
    "chat_unknown": {
        "zh": "没有 {command} 这个命令，只有 /new、/help 和 /quit。",
        "en": "There is no {command}, only /new, /help and /quit.",
    },
    # Chat platforms: commands and what they say.
    "command_start": {"zh": "认识一下 Solemate", "en": "Meet Solemate"},
    "command_help": {"zh": "我能帮你做什么", "en": "What I can do for you"},
    "command_new": {"zh": "换个话题，重新开始", "en": "Start a new conversation"},
    "command_language": {"zh": "选择语言", "en": "Choose the language"},
    "command_privacy": {"zh": "我会记住什么", "en": "What I remember"},
    "command_forget": {"zh": "删除我记住的关于你的一切", "en": "Delete what I keep about you"},
    "command_stats": {"zh": "数一数（管理员）", "en": "Figures, for operators"},
    "stats": {
        "zh": "今天\n{today}\n\n最近 7 天\n{week}\n\n等待回答：{waiting} 条，搁置：{dead} 条\n"
        "正在回答的：{live}",
        "en": "Today\n{today}\n\nThe last 7 days\n{week}\n\n"
        "Waiting for an answer: {waiting}, put aside: {dead}\nAnswering: {live}",
    },
    "stats_period": {
        "zh": "提问的人：{people}，回答：{total}\n"
        "直接回答 {answered}，引用原文 {quoted}，反问 {clarify}，答不了 {refused}\n"
        "👍 {up}  👎 {down}",
        "en": "People: {people}, answers: {total}\n"
        "Answered {answered}, quoted {quoted}, asked back {clarify}, did not know {refused}\n"
        "👍 {up}  👎 {down}",
    },
    "chat_commands": {
        "zh": "直接把问题发给我就行，也可以发鞋的照片，一次最多 {photos} 张。"
        "群里请 @我，或者回复我的消息。\n\n"
        "觉得回答好不好，点一下下面的 👍 或 👎；点了 👎 可以告诉我该怎么说，我会学着改。\n\n"
        "/new 换个话题\n/language 选择语言\n/settings 要不要问你、告诉你\n/stats 你教我的\n"
        "/privacy 我会记住什么\n/forget 删除聊天记录",
        "en": "Just send me your question, or photos of shoes, up to {photos} at once. In a group, "
        "mention me or reply to one of my messages.\n\n"
        "Tell me with 👍 or 👎 how an answer was; after 👎 you can say what I should have said, "
        "and I learn from it.\n\n"
        "/new start a new conversation\n/language choose the language\n"
        "/settings what I may ask and tell you\n/stats what you taught me\n"
        "/privacy what I remember\n/forget delete your chats",
    },
    "new_started": {
        "zh": "好，我们重新开始。想聊哪双鞋？",
        "en": "All right, a fresh start. Which shoes shall we talk about?",
    },
    "language_question": {
        "zh": "你想让我用哪种语言回答？",
        "en": "Which language shall I answer in?",
    },
    "language_auto": {"zh": "跟随我的消息", "en": "That of my messages"},
    "language_chosen": {"zh": "好的，之后我用中文回答。", "en": "Fine, I will answer in English."},
    "language_follows": {
        "zh": "好的，你用哪种语言问，我就用哪种语言回答。",
        "en": "Fine, I will answer in the language you write in.",
    },
    "privacy": {
        "zh": "我会保存你的问题、照片、我的回答，还有你的评价和更正，{days} 天没有动静就删除。"
        "{training}\n\n用 /forget 可以随时删除我记住的关于你的一切，群里的也算。",
        "en": "I keep your questions, photos, my answers, and your ratings and corrections; what "
        "nobody touches for {days} days is deleted. {training}\n\n"
        "With /forget you can delete everything I keep about you at any time, also from groups.",
    },
    "privacy_trains": {
        "zh": "评价和更正会用来改进我的回答。",
        "en": "Ratings and corrections help to improve my answers.",
    },
    "privacy_trains_not": {
        "zh": "聊天内容不会用来训练。",
        "en": "Chats are not used for training.",
    },
    "forget_confirm": {
        "zh": "删除我记住的关于你的一切，包括群里的？问题、照片、回答和评价都会删掉，不能恢复。",
        "en": "Delete everything I keep about you, also from groups? Questions, photos, answers "
        "and ratings go for good.",
    },
    "forgotten": {
        "zh": "都删掉了。聊天窗口里的消息还在，要的话请你自己清空。",
        "en": "All deleted. The messages you see here are yours to clear.",
    },
    "not_your_button": {
        "zh": "这个按钮是给提出删除的人用的。想删除自己的记录，请发 /forget。",
        "en": "This button belongs to whoever asked for it. To delete your own data, send /forget.",
    },
    "not_your_thumb": {
        "zh": "只有给这条回答点了 👎 的人才能说明原因。",
        "en": "Only whoever gave this answer a 👎 can say why.",
    },
    "not_forgotten_now": {
        "zh": "现在删不了，什么都还没删。请稍后再点一次。",
        "en": "I cannot delete anything right now, and nothing was. Please press again in a while.",
    },
    "not_forgotten": {"zh": "好，什么都没删。", "en": "Fine, nothing was deleted."},
    "stranger": {
        "zh": "你好！我只为受邀的朋友服务，还不认识你。想用的话，请联系管理员。",
        "en": "Hello! I only talk to people who were invited, and I do not know you yet. Please "
        "ask my operator to let you in.",
    },
    "text_or_photo": {
        "zh": "我只会看文字和照片。请把问题写下来，或者发一张鞋的照片。",
        "en": "I can only read text and photos. Please write your question, or send a photo of "
        "the shoe.",
    },
    "photo_not_fetched": {
        "zh": "照片没能取到，请再发一次。",
        "en": "I could not fetch the photo; please send it again.",
    },
    "ask_correction": {
        "zh": "那我应该怎么回答？请直接回复这条消息。",
        "en": "What should I have said? Please reply to this message.",
    },
    # Begins with the name: it becomes a mention.
    "ask_correction_of": {
        "zh": "{name}，那我应该怎么回答？请直接回复这条消息。",
        "en": "{name}, what should I have said? Please reply to this message.",
    },
    "correction_hint": {"zh": "写下更好的回答", "en": "A better answer"},
    "correction_words": {
        "zh": "请用文字写下更好的回答，回复刚才那条消息。",
        "en": "Please write the better answer in words, as a reply to my last message.",
    },
    "correction_thanks": {
        "zh": "谢谢你教我，我记下了。",
        "en": "Thank you for teaching me, I have noted it.",
    },
    "composing": {"zh": "正在组织语言…", "en": "Putting it into words…"},
    "in_line": {
        "zh": "现在提问的人有点多，你排在第 {number} 位，马上就到。",
        "en": "There is a bit of a queue. You are number {number}, and I will get to you.",
    },
    # What was learned from a person.
    "taught_me": {
        "zh": "🎓 你教我的，我学会了，谢谢！",
        "en": "🎓 You taught me something, and I have learned it. Thank you!",
    },
    "taught": {"zh": "• “{question}” → {text}", "en": "• “{question}” → {text}"},
    "taught_more": {"zh": "• 还有 {count} 条", "en": "• and {count} more"},
    # Two answers to compare, and what a person may switch off.
    "duel_question": {
        "zh": "同一个问题，我还有另一种答法。哪个更好？",
        "en": "I can answer that in two ways. Which one is better?",
    },
    "duel_pick": {"zh": "{side} 更好", "en": "{side} is better"},
    "duel_same": {"zh": "差不多", "en": "About the same"},
    "duel_thanks": {
        "zh": "谢谢，我记下了，会从中学习。",
        "en": "Thank you, noted. I learn from that.",
    },
    "duel_of_another": {
        "zh": "这道题是请提问的人来选的。",
        "en": "This one is for whoever asked the question.",
    },
    "duel_off": {"zh": "以后别问了", "en": "Do not ask again"},
    "duel_off_done": {
        "zh": "好，不再请你比较了。想恢复，在设置里打开就行。",
        "en": "Fine, I will not ask again. The settings turn it back on.",
    },
    "command_settings": {"zh": "要不要问你、告诉你", "en": "What I may ask and tell you"},
    "settings": {
        "zh": "点一下就能打开或关掉：",
        "en": "Press one to turn it on or off:",
    },
    "settings_private": {
        "zh": "请在和我的私聊里发 /settings。",
        "en": "Please send /settings in a private chat with me.",
    },
    "wish_duels": {"zh": "请我比较两个回答", "en": "Ask me to compare answers"},
    "wish_tell": {"zh": "学会了就告诉我", "en": "Tell me what I taught you"},
    # Slack's own.
    "address_left_out": {"zh": "（链接已略去）", "en": "(link left out)"},
    "feedback_noted": {
        "zh": "你的 👎 已经记下了。下面两项都可以不填。",
        "en": "Your 👎 is noted. Both questions below are optional.",
    },
    "home_title": {"zh": "怎么用 Solemate", "en": "How to use Solemate"},
    "home_help": {
        "zh": "在“消息”里直接问我，或者在频道里 @我，我会在消息列里回答。"
        "也可以发鞋的照片，一次最多 {photos} 张。\n\n"
        "觉得回答好不好，点一下回答下面的 👍 或 👎，加表情回应也算；"
        "点了 👎 可以告诉我该怎么说，我会学着改。别人看不到是谁评的。",
        "en": "Ask me in the Messages tab, or mention me in a channel and I answer in the thread. "
        "Photos of shoes are welcome, up to {photos} at once.\n\n"
        "Tell me with 👍 or 👎 under an answer how it was; an emoji reaction counts, too. After 👎 "
        "you can say what I should have said, and I learn from it. Nobody else sees who voted.",
    },
    "home_corrections": {"zh": "你教我的", "en": "What you taught me"},
    "home_no_corrections": {
        "zh": "还没有。点回答下面的 👎，就可以告诉我该怎么说。",
        "en": "Nothing yet. Press 👎 under an answer to tell me what I should have said.",
    },
    "home_correction": {
        "zh": "问：{question}\n你的回答：{correction}\n{fate}",
        "en": "Question: {question}\nYour answer: {correction}\n{fate}",
    },
    "correction_noted": {"zh": "⏳ 已记下，等待审核", "en": "⏳ Noted, waiting for review"},
    "correction_accepted": {
        "zh": "✅ 已采纳，下次训练时会学",
        "en": "✅ Accepted, to be learned in the next training",
    },
    "correction_refused": {"zh": "➖ 没有采纳", "en": "➖ Not taken"},
    "correction_live": {"zh": "🎓 已经学会了", "en": "🎓 Learned: it is in my answers now"},
    "home_privacy_title": {"zh": "隐私", "en": "Privacy"},
    "home_privacy": {
        "zh": "我会保存你的问题、照片、我的回答，还有你的评价和更正，{days} 天没有动静就删除。"
        "{training}",
        "en": "I keep your questions, photos, my answers, and your ratings and corrections; what "
        "nobody touches for {days} days is deleted. {training}",
    },
    "home_forget": {"zh": "忘记我", "en": "Forget me"},
    "home_forget_confirm": {
        "zh": "删除我记住的关于你的一切？问题、照片、回答和评价都会删掉，不能恢复。",
        "en": "Delete everything I keep about you? Questions, photos, answers and ratings go for "
        "good.",
    },
    "home_forgotten": {
        "zh": "✅ 都删掉了。Slack 里的消息还在，要的话请你自己删除。",
        "en": "✅ All deleted. The messages in Slack are yours to delete.",
    },
    # What the HTTP API refuses.
    "not_found": {
        "zh": "没有找到这个会话、消息或回复。",
        "en": "There is no such session, message or reply.",
    },
    "no_route": {
        "zh": "API 里没有这个地址；有哪些地址，请看 /openapi.json。",
        "en": "The API has nothing at this address; /openapi.json lists what there is.",
    },
    "wrong_method": {
        "zh": "这个地址不接受这种请求方法，请用 {allowed}。",
        "en": "This address does not take that method; use {allowed}.",
    },
    "not_saved": {
        "zh": "现在存不下来，什么都没有被记录。请稍后再试。",
        "en": "I cannot save anything right now, so nothing was recorded; please try again later.",
    },
    "body_large": {
        "zh": "请求太大了，请缩短文字或缩小照片（上限 {limit} 字节）。",
        "en": "The request is too large; shorten the text or shrink the photo ({limit} bytes at "
        "most).",
    },
    "webhook_secret": {
        "zh": "请求头 {header} 缺失或不对。",
        "en": "The header {header} is missing or wrong.",
    },
    "body_type": {
        "zh": "请用 Content-Type: application/json 发送 JSON。",
        "en": "Please send JSON, with Content-Type: application/json.",
    },
    "body_json": {"zh": "请求正文不是有效的 JSON。", "en": "The request's body is not valid JSON."},
    "body_object": {
        "zh": "请求正文必须是一个 JSON 对象。",
        "en": "The body must be a JSON object.",
    },
    "unknown_field": {
        "zh": "没有 {name} 这个字段，请去掉它。",
        "en": "There is no field {name}; leave it out.",
    },
    "missing_field": {"zh": "缺少字段 {name}。", "en": "The field {name} is missing."},
    "invalid_field": {
        "zh": "字段 {name} 的值不对，要求是：{allowed}。",
        "en": "The field {name} must {allowed}.",
    },
    "origin": {
        "zh": "这个网站（{origin}）的页面不能调用这里；请把它加进 allowed_origins。",
        "en": "Pages of {origin} may not call this API; add the site to allowed_origins first.",
    },
    "model_not_found": {
        "zh": "没有名为 {model} 的模型，请使用 {known}。",
        "en": "There is no model {model}; ask for {known}.",
    },
    "no_question": {
        "zh": "最后一条消息必须是 user 的提问。",
        "en": "The last message must be the user's question.",
    },
    "photo_address": {
        "zh": "照片请用 base64 或 data: 网址发送，我不会去别处下载。",
        "en": "Please send photos as base64 or data: URLs; I do not fetch addresses.",
    },
    # The page.
    "page_title": {"zh": "Solemate 鞋类专家", "en": "Solemate, the shoe expert"},
    "ask_placeholder": {"zh": "问一个关于鞋的问题…", "en": "Ask something about shoes…"},
    "send": {"zh": "发送", "en": "Send"},
    "stop": {"zh": "停止", "en": "Stop"},
    "copy": {"zh": "复制", "en": "Copy"},
    "copied": {"zh": "已复制", "en": "Copied"},
    "new_conversation": {"zh": "新对话", "en": "New conversation"},
    "conversations": {"zh": "对话列表", "en": "Conversations"},
    "delete_conversation": {"zh": "删除对话", "en": "Delete conversation"},
    "delete_confirm": {
        "zh": "删除这个对话？里面的问题、照片和评价都会删掉，不能恢复。",
        "en": "Delete this conversation? Its questions, photos and ratings go for good.",
    },
    "delete": {"zh": "删除", "en": "Delete"},
    "cancel": {"zh": "取消", "en": "Cancel"},
    "add_photo": {"zh": "添加照片", "en": "Add a photo"},
    "remove_photo": {"zh": "移除照片", "en": "Remove the photo"},
    "sources": {"zh": "资料来源（{count}）", "en": "Sources ({count})"},
    "thumb_up": {"zh": "有帮助", "en": "Helpful"},
    "thumb_down": {"zh": "没帮助", "en": "Not helpful"},
    "dark_mode": {"zh": "深色模式", "en": "Dark mode"},
    "language": {"zh": "English", "en": "中文"},
    "reading_photo": {"zh": "正在看照片…", "en": "Looking at the photo…"},
    "searching": {"zh": "正在查资料…", "en": "Looking it up…"},
    "why_down": {"zh": "哪里不好？", "en": "What was wrong?"},
    "what_instead": {
        "zh": "我应该怎么回答？（可不填）",
        "en": "What should I have said? (optional)",
    },
    "submit": {"zh": "提交", "en": "Submit"},
    "skip": {"zh": "跳过", "en": "Skip"},
    "feedback_thanks": {"zh": "谢谢，我记下了。", "en": "Thank you, noted."},
    "reason_wrong_facts": {"zh": "事实不对", "en": "Wrong facts"},
    "reason_did_not_answer": {"zh": "没回答问题", "en": "Did not answer"},
    "reason_tone": {"zh": "语气不好", "en": "Tone"},
    "reason_wrong_photo": {"zh": "照片认错了", "en": "Wrong shoe in the photo"},
    "reason_other": {"zh": "其他", "en": "Other"},
    "reconnecting": {"zh": "连接断了，正在重连…", "en": "Connection lost, reconnecting…"},
    "welcome": {"zh": "聊聊鞋吧", "en": "Let’s talk shoes"},
    "welcome_more": {
        "zh": "尺码、材质、保养、搭配，都可以问。也可以发一张鞋的照片。",
        "en": "Sizes, materials, care, styling: ask away, or send a photo of a shoe.",
    },
    "example_4": {"zh": "跑步鞋多久该换？", "en": "When should I replace running shoes?"},
    "fine_print": {
        "zh": "回答只依据 Solemate 的资料，出处在每条回答下面。",
        "en": "Answers come from Solemate’s notes, with sources.",
    },
    "conversation": {"zh": "对话内容", "en": "Conversation"},
    "you": {"zh": "你的提问", "en": "Your question"},
    "answer": {"zh": "Solemate 的回答", "en": "Solemate’s answer"},
    "your_photo": {"zh": "你发的照片", "en": "The photo you sent"},
    "only_photo": {"zh": "一张照片", "en": "A photo"},
    "photo_preview": {"zh": "待发送的照片", "en": "Photo to send"},
    "drop_photo": {"zh": "松开即可添加照片", "en": "Drop your photos to add them"},
    "seen": {"zh": "照片里看到的", "en": "Seen in the photo"},
    "to_end": {"zh": "回到最新消息", "en": "Jump to the latest message"},
    "close": {"zh": "关闭", "en": "Close"},
    "not_sent": {
        "zh": "没有连上，消息还在这里。请检查网络后再发一次。",
        "en": "Not connected. Your message is still here; check the network and send it again.",
    },
    "no_page": {"zh": "没有这个页面。", "en": "There is no such page."},
    "to_chat": {"zh": "去聊鞋", "en": "Talk about shoes"},
    "page_failed": {
        "zh": "页面暂时打不开，你的对话都还在。请稍后刷新。",
        "en": "The page cannot be shown right now; your conversations are safe. "
        "Please reload in a while.",
    },
    "foreign_page": {
        "zh": "这条消息来自另一个网站（{origin}），没有被接收。如果这就是本页的地址，"
        "请运营者把它设为 web.public_url。",
        "en": "This came from another site, {origin}, and was not taken. If that is the address of "
        "this page, its operator has to set web.public_url to it.",
    },
    "no_cookie": {
        "zh": "浏览器没有带上本页的 Cookie，消息没有被接收。请允许本页使用 Cookie，"
        "刷新后再发一次。",
        "en": "Your browser did not send this page's cookie, so the message was not taken. Allow "
        "cookies here, reload, and send it again.",
    },
    "not_stored": {
        "zh": "评价没能保存，请稍后再点一次。",
        "en": "Your rating was not saved. Please press again in a while.",
    },
    "answered_by": {"zh": "由 {adapter} 回答", "en": "Answered by {adapter}"},
    "examples": {"zh": "可以这样问：", "en": "You could ask:"},
    "example_1": {"zh": "帆布鞋怎么洗才不发黄？", "en": "How do I clean white shoes?"},
    "example_2": {"zh": "脚长 25 厘米穿多大码？", "en": "What size am I with a 25 cm foot?"},
    "example_3": {"zh": "德训鞋是什么鞋？", "en": "What is a German army trainer?"},
}


def say(key: str, language: Language, **values: object) -> str:
    """The sentence `key` in this language with its blanks filled in."""
    return SENTENCES[key][language].format(**values)


def apology(error: SolemateError, language: Language) -> str:
    """What to say about a message or request that could not be taken or answered."""
    return say(error.code, language, **error.values)


def quote(sentence: str, passages: Sequence[Passage], language: Language) -> str:
    """One or two passages word for word, after the sentence that says why."""
    first, last = passages[0], passages[-1]
    key = "source_of" if first is last else "sources_of"
    named = say(key, language, title=first.title, other=last.title)
    texts = "\n\n".join(f"“{passage.text}”" for passage in passages)
    return say(sentence, language, sources=named, texts=texts)


def ask_back(choices: Sequence[str], language: Language, *, instead: bool = False) -> str:
    """ "Did you mean A, B, or C?"; `instead` of something that was not meant."""
    key = ("clarify_other" if instead else "clarify") + ("_one" if len(choices) == 1 else "")
    return say(key, language, choices=_titles(choices, "or", language))


def closest(passage: Passage, others: Sequence[str], language: Language) -> str:
    """The passage that may be what is asked for, word for word, and what else may be meant."""
    key = "closest_or" if others else "closest_only"
    ending = say(key, language, choices=_titles(others, "either", language))
    return f"{quote('closest', [passage], language)}\n\n{ending}"


def describe_photo(tags: Sequence[ImageTag], language: Language, colours_only: bool) -> str:
    """What was seen in a photo, what could not be seen, and the question what to do with it."""
    parts = [photo_seen(tags, language) if tags else say("photo_unseen", language)]
    if colours_only:
        parts.append(say("photo_limits", language))
    parts.append(say("photo_question", language))
    return _in_a_row(parts, language)


def photo_seen(tags: Sequence[ImageTag], language: Language) -> str:
    """The sentence on what was seen in a photo."""
    listed = say("listed", language).join(tag_words(tag, language) for tag in tags)
    return say("photo_seen", language, tags=listed)


def photo_differs(tag: ImageTag, said: str, language: Language) -> str:
    """The sentence before an answer whose question contradicts the photo."""
    # "看起来" is hedge enough for a guess.
    seen = tag.name if language == "zh" else tag.phrase
    return _in_a_row([say("photo_differs", language, seen=seen, said=said), ""], language)


def tag_words(tag: ImageTag, language: Language) -> str:
    """A tag as people read it, hedged where it is a guess."""
    name = tag.name if language == "zh" else tag.phrase
    return name if tag.sure else say("about", language, tag=name)


def _titles(choices: Sequence[str], conjunction: str, language: Language) -> str:
    """ "“A”, “B”, or “C”"."""
    *most, last = [say("title", language, title=one) for one in choices] or [""]
    parts = (say("listed", language).join(most), last)
    return say(conjunction, language).join(part for part in parts if part)


def _in_a_row(parts: Sequence[str], language: Language) -> str:
    return ("" if language == "zh" else " ").join(parts)
