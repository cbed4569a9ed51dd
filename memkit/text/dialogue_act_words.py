"""Words of many languages that ask without a question mark, or that only greet."""

from __future__ import annotations

import re

SHORT = 9  # words up to which a sentence without another clause is taken for a question by one word in it
SHORT_UNSPACED = 30  # characters, in scripts without spaces

_WH = r"(?:what|which|who|whom|whose|where|when|why|how|if|whether|in which|at which|in what|at what)\b"
_NOT = r"(?:do not|don't|dont|did not|didn't|didnt|cannot|can not|can't|cant|could not|couldn't)"
# Says that one does not know or would like to: alone it states nothing.
LEAD = re.compile(
    r"(?:(?:well|so|and|but) )?(?:"
    r"(?:(?:i|we|you) )?(?:have |got |'ve got )?(?:(?:any|no|not an?|not the slightest) )?(?:idea|clue)"
    r"|(?:i |we )?(?:just |really |totally |honestly |simply )*"
    rf"(?:forgot|forget|have forgotten|{_NOT} (?:know|recall|remember|understand)|wonder|wondering"
    r"|(?:would |'d )?(?:really |just )?(?:love|like|want|need) to (?:know|find out|learn|hear)"
    r"|wanna know|(?:am |was )?(?:just )?(?:trying|hoping) to (?:remember|recall|find out|figure out|know))"
    r"|i(?:'ve| have) (?:totally |completely )?forgotten"
    r"|i'd (?:really |just )?(?:love|like) to (?:know|find out|learn|hear)"
    r"|(?:i'm |im |i am |we're |we are )?(?:just |so |really |still )?(?:curious|not sure|unsure|not certain|"
    r"uncertain|wondering|trying to (?:remember|recall|find out|figure out))"
    r"|(?:please |pls |plz )?(?:tell me|let me know|remind me)"
    r"|(?:you |u )?(?:know|remember|recall)"
    r")(?: (?:about|of|on|as to|again|to know))*"
)
LEADING = re.compile(rf"{LEAD.pattern}:?,? {_WH}")
TITLE = re.compile(  # in front of a question, and no part of it
    r"(?:(?:(?:my|a|one|just a|another|quick|one quick|just one|simple|the) )*(?:question|q)\s*[:,\-–—]"
    r"|quick question|@[\w.\-]+[:,]?)\s+"
)
OTHER = re.compile(r"[,;:!]|\s[-–—]\s|\b(?:but|because|since|so|though|although)\b")  # begins another clause
_SUBJECT = r"(?:i|you|u|he|she|it|we|they|there|this|that|these|those|the|my|your|his|her|our|their|its)"
BARE = re.compile(rf"where (?!there\b)\w|(?:when|how|what|whom|whose \w+) {_SUBJECT} \w")
LAST = re.compile(  # "she lives where", "she lives in which town"
    r"\w (?:where|who|whom|when|what)$|\w (?:in|at|on|to|from|with|by|of|for) (?:which|what|whose) \w+$"
)
NO_LAST = re.compile(
    r"\b(?:know|knows|knew|care|cares|matter|guess|guessed|say|says|said|tell|tells|told|asked|sure|and|or|no|"
    r"is|that's|of|some|any|every|since|so|for|you) \w+$"
)
# A question that begins in mid-sentence: "my name is Tom where does Simsem live".
WITHIN = re.compile(
    rf"\s+(?:and |but |so )?(?=(?:where|when|why|how|whom) (?:does|do|did) [^\W_]+ [^\W_]"
    r"|(?:what|who|where|when|why|how|whose|which) "
    rf"(?:is|are|was|were|does|do|did|can|should|will) {_SUBJECT}\b)",
    re.IGNORECASE,
)
REPORTS = re.compile(  # what stands behind it is told, not asked
    r"\b(?:ask\w*|know\w*|knew|tell\w*|told|say\w*|said|explain\w*|understand\w*|remember\w*|show\w*|see|saw|"
    r"learn\w*|wonder\w*|forg[eo]t\w*|discuss\w*|about|idea|recall)(?: (?:me|him|her|us|them|you|[A-Z]\w*))?$"
)
MINE = frozenset("i we my our i'm i've i'd i'll we're we've im ive mine".split())
# Asks whether something is known, and tells it: "did you know I live in Oslo?"
KNOWN = re.compile(
    r"(?:(?:do|did) (?:you|u) (?:know|remember|recall)|(?:i |i'm |i am )?wonder(?:ing)? (?:if|whether) you "
    r"(?:know|knew|remember)|are you aware|you know)(?: that)? "
    r"(?=(?:i|we|i'm|i've|i'd|i'll|we're|we've)\b"
    r"|(?:my|our) (?:[\w'-]+ ){1,4}(?:is|are|was|were|has|have|\w+s) )"
    r"|did (?:you|u) know that "
)
HEADED = re.compile(
    r"(?:check|list|find|save|help|how to)\b[^:]{2,80}: +(?=\S)"
)  # "how to reach me: +47 123"

_ASKED_ELSEWHERE = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?:kannst du|könnt ihr|können sie|könnten sie|könntest du|sag|sagt|sagen sie|erzähl)\b.{0,30}"
        r"\b(?:wo|woher|wohin|wer|wen|wem|was|wann|warum|wie|welche\w*|ob)\b",
        r"(?:weißt|weisst|wissen|weiß|weiss) (?:du|sie|ihr|jemand|wer)\b.{0,30}"
        r"\b(?:wo|woher|wohin|wer|wen|wem|was|wann|warum|wie|welche\w*|ob)\b",
        r"(?:keine ahnung|ich weiß nicht|ich weiss nicht|ich habe vergessen),? "
        r"(?:wo|woher|wohin|wer|wen|wem|was|wann|warum|wie|welche\w*|ob)\b",
        r"(?:sais-tu|savez-vous|tu sais|vous savez|peux-tu|pouvez-vous|pourrais-tu|pourriez-vous|tu peux|"
        r"dis-moi|dites-moi|je ne sais (?:pas|plus)|j'ai oublié)\b.{0,30}"
        r"\b(?:où|qui|quand|comment|pourquoi|combien|quels?|quelles?)\b",
        r"(?:dime|dígame|digame|sabes|sabe usted|puedes|puede|podrías|podría|me puedes|no sé|"
        r"no recuerdo|olvidé)\b.{0,30}"
        r"\b(?:d[oó]nde|qui[eé]n|cu[aá]ndo|c[oó]mo|por qu[eé]|cu[aá]nt[oa]s?|qué|cu[aá]l)\b",
        r"(?:puoi|può|potresti|potrebbe|sai|sapete|dimmi|mi dici|mi sai|non so|non ricordo)\b.{0,30}"
        r"\b(?:dove|dov'è|chi|quando|come|perché|quanto|quanti|quale|quali)\b",
        r"(?:podes|pode|você sabe|voce sabe|sabes|diga-me|diz-me|me diga|me diz|não sei|poderia)\b.{0,30}"
        r"\b(?:onde|quem|quando|como|quanto|quantos|qual|quais)\b",
        r"(?:скажи|скажите|подскажи|подскажите|(?:ты |вы )?(?:не )?(?:знаешь|знаете|помнишь|помните)|"
        r"(?:я )?(?:не знаю|не помню|забыл|забыла)|мо(?:жешь|жете) (?:сказать|подсказать)|напомни(?:те)?)\b"
        r".{0,30}\b(?:где|кто|кого|куда|откуда|когда|как|почему|зачем|сколько|какой|какая|какое|какие|чей|чья)\b",
        r"(?:weet je|weet u|kun je|kunt u|zeg me|vertel me)\b.{0,30}\b(?:waar|wie|wat|wanneer|waarom|hoe)\b",
        r"(?:أين|اين|متى|كيف|لماذا|ماذا|هل) \w",
        r"(?:איפה|היכן|מתי|למה|האם) \w",
        r".*\b(?:nerede|nereye|nereden|nerde)\b",
        r".*(?:ở đâu|di mana|dimana|где|ที่ไหน|เมื่อไหร่)$",
        r".*(?:कहाँ|कहां|کجا)",
    )
)
_UNSPACED = re.compile(
    r"哪里|哪裡|哪儿|哪兒|什么时候|什麼時候|几点|幾點|谁|誰|为什么|為什麼|多少|怎么|什么|什麼"
    r"|(?:どこ|だれ|誰|いつ|何時|何歳|なぜ|どうして|いくら)(?!か(?!ら)|も|でも)|何(?:を|が|の|で|と)(?!も)"
    r"|어디(?!든|서나)|누구(?!나|든)|누가|언제(?!나|든)|무엇|왜(?!냐)|어떻게|몇"
)
_UNSPACED_KNOWN = re.compile(
    r"(?<![不没沒])知道|告诉|告訴|都|无论|無論|不管|没什么|沒什麼|怎么样也"
    r"|か(?:を|は|も)?知って|か(?:を|は)?わかって|지 알"
    r"|[，,、；;：:]"
)
_GREETINGS = frozenset(
    "guten morgen tag abend nacht gute hallo servus moin grüß gott danke schön bitte tschüss "
    "bonjour bonsoir bonne nuit salut merci beaucoup au revoir "
    "hola buenos días dias buenas tardes noches gracias muchas adiós adios "
    "ciao buongiorno buonasera buonanotte grazie mille arrivederci salve prego "
    "olá ola oi bom dia boa tarde noite obrigado obrigada tchau "
    "привет здравствуй здравствуйте спасибо пока доброе утро добрый день вечер большое пожалуйста "
    "привіт дякую вітаю cześć dziękuję dzień dobry hej hei tack takk tak moi kiitos "
    "goedemorgen goedemiddag goedenavond dank je wel bedankt "
    "merhaba selam günaydın teşekkürler teşekkür ederim "
    "こんにちは こんばんは おはよう おはようございます ありがとう ありがとうございます さようなら "
    "你好 您好 谢谢 謝謝 谢谢你 再见 再見 早上好 晚上好 "
    "안녕하세요 안녕 안녕히 가세요 감사합니다 고마워 고마워요 "
    "مرحبا السلام عليكم شكرا أهلا שלום תודה नमस्ते धन्यवाद สวัสดี ขอบคุณ".split()
)
POLITE = _GREETINGS | frozenset(
    "you very much there good morning afternoon evening night bye goodbye cheers nice great cool fine lol "
    "haha hahaha wow thx ty yup nope sure see later so ok k".split()
)


def asks_unmarked(text: str) -> bool:
    """Whether a sentence, in lower case and without a mark, only asks by a clause or a word in it."""
    bare = text.strip(" .…\"'”’)]」』。！!~～")
    if lead := LEADING.match(bare):
        return not OTHER.search(bare, lead.end())
    if any(pattern.match(bare) for pattern in _ASKED_ELSEWHERE):
        return not OTHER.search(bare.replace(", ", " ", 1))
    if len(bare) <= SHORT_UNSPACED and _UNSPACED.search(bare) and not _UNSPACED_KNOWN.search(bare):
        return True
    words = bare.split()
    if OTHER.search(bare) or len(words) > SHORT or len(words) < 3 or text.rstrip().endswith("!"):
        return False
    if LAST.search(bare) and not NO_LAST.search(bare):
        return True
    later = {"is", "are", "was", "were", "has", "have", "had", "will", "would", "can"} & set(words[2:-1])
    return len(words) <= 6 and bool(BARE.match(bare)) and not later
