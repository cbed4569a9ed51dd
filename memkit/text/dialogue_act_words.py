"""Words and patterns by which `memkit.text.dialogue_acts` recognizes questions, requests and greetings.

All patterns but those of marks match lower-case text. English comes first, other languages last.
"""

from __future__ import annotations

import re

# Marks and words
QUESTION_MARKS = "?？؟⁇⁈⁉‽¿՞፧⸮꘏꛷᥅\u037e"
GREEK = re.compile(r"[\u0370-\u03ff\u1f00-\u1fff]")
CLOSING_MARKS = "\"'”’»)\\]」』"
# A sentence ends at a line's end and after a mark that a space follows; scripts without spaces need none.
# The possessive quantifiers read each run of marks once, which keeps the search linear.
_MARK = r"[.!?…‽⁇⁈⁉؟՞።፧।;\u037e]"
SENTENCE_END = re.compile(
    rf"(?<!{_MARK}){_MARK}++[{CLOSING_MARKS}]*+(?=\s|$)|[。！？｡]++[{CLOSING_MARKS}]*+|(?=[¿])|\n"
)
QUOTED_QUESTION_END = re.compile(rf"[{QUESTION_MARKS}][!.]*[\"'”’»」』]$")
FINAL_LINK = re.compile(r"(?:https?://|www\.)[^\s?]+\?$")
TAG_QUESTION = re.compile(
    r"(?:,? (?:right|correct)|, (?:ok|okay|yes|no|you know|isn't it|is that right"
    r"|(?:do|did|am|are|have|was)(?:n't)? (?:i|we)))[?？!]*$",
    re.IGNORECASE,
)
ABBREVIATION = re.compile(r"(?:^|[\s(])(?:[^\W\d_]|Dr|Mrs?|Ms|Prof|St|Jr|Sr|vs|No|etc|e\.g|i\.e|approx)\.$")
WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
CLAUSE_BREAK = re.compile(r"[,;:–—]\s+(?:(?:and|but|so|or)\s+)?|\s-\s|\s+(?:and|but|so)\s+")

FILLERS = frozenset(
    "hi hello hey dear please ok okay so and but well now also then thanks thank sorry um uh hm hmm oh yes "
    "no yeah yep alright actually btw pls plz again excuse".split()
)
FILLER_PHRASES = (
    "by the way ",
    "thank you ",
    "excuse me ",
    "good morning ",
    "good evening ",
    "one more thing ",
)
AUXILIARIES = frozenset(
    "is are was were am do does did can could will would shall should may might must has have had isn't "
    "aren't wasn't weren't don't doesn't didn't can't couldn't won't wouldn't shouldn't hasn't haven't "
    "hadn't isnt arent dont doesnt didnt cant couldnt wont wouldnt".split()
)
SUBJECT_PRONOUNS = frozenset(
    "i you u he she it we they there this that these those anyone anybody someone somebody everyone".split()
)
# Before a subject in questions; seldom the start of a statement without its subject.
QUESTION_AUXILIARIES = frozenset(
    "is are do does can could would isn't aren't don't doesn't can't couldn't wouldn't".split()
)
# The same, if a name follows.
NAME_AUXILIARIES = frozenset("did will has was were had should didn't won't hasn't wasn't weren't".split())
DETERMINERS = frozenset("the my your his her our their its any some a an".split())
WH_ADVERBS = frozenset("when where why how whom".split())
WH_DETERMINERS = frozenset("what which whose".split())
HOW_MEASURES = frozenset(
    "many much old long far often tall big large high deep heavy soon late fast come about".split()
)
CONTRACTED_WH = frozenset("whats wheres whos hows whens whys whatre wherere".split())
CONTRACTIONS = ("'s", "’s", "'re", "’re", "'d", "’d", "'ll", "’ll")
WH_WORDS = frozenset("what which who whom whose where when why how if whether".split())
TELL_REQUEST = re.compile(
    r"(?:(?:can|could|would|will) you |i(?:'d| would) like you to )?(?:please |kindly )?"
    r"(?:tell me|show me|give me|let me know|explain|describe|summari[sz]e|remind me (?:of|about|wh\w+|how))"
    r"\b"
)
INDIRECT_QUESTION = re.compile(
    r"i (?:wonder|am wondering|was wondering|want to know|need to know|(?:would|'d) like to know)\b"
    r"|i'(?:m wondering|d like to know)\b"
)
REQUEST = re.compile(  # to look something up or to write it
    r"(?:please |kindly )?"
    r"(?:list|find|look up|look for|search for|check|say|translate|write|suggest|recommend|help me) "
    r"(?:all|the|my|me|her|his|their|our|its|a|an|some|every|each|out|with|find|understand|"
    rf"{'|'.join(sorted(WH_WORDS))})\b"
    r"|(?:please |kindly )?name (?:all|some|every|each|two|three|the)\b"
)
# "I forgot it, can you tell me"
APPENDED_REQUEST = re.compile(r"[,;] (?:please )?(?:can|could|would|will) you \w+")
WH_PREPOSITION = re.compile(r"\A(?:in|at|on|to|for|with|from|of|by|since|until|about) (?=(?:wh\w+|how) )")
SO_DO = re.compile(r"\s*(?:so|nor|neither) (?:is|are|was|were|do|does|did|can|have|has)\b", re.IGNORECASE)
REMEMBER_REQUEST = re.compile(  # to remember the statement that follows
    r"(?:(?:can|could|would|will) you |do |i want you to )?(?:please )?"
    r"(?:remember|note|keep in mind|memori[sz]e|write down|do not forget|don't forget|save)\b[ ,:]+"
    rf"(?!(?:{'|'.join(sorted(WH_WORDS))})\b)"
)
FACTUAL_CONJUNCTIONS = frozenset("since because as although though while".split())  # introduce a fact
DEPENDENT_STARTS = frozenset(  # first words of a clause that cannot stand alone
    "if when whenever while because since as although though unless until before after given in on at for "
    "with from by about hi hello hey dear thanks thank regarding considering".split()
)

# English questions without a question mark
SHORT_SENTENCE = 9  # words; up to here a single word can make a sentence without another clause a question
SHORT_UNSPACED = 30  # the same in characters, for scripts without spaces

_WH_CLAUSE = (
    r"(?:what|which|who|whom|whose|where|when|why|how|if|whether|in which|at which|in what|at what)\b"
)
_NEGATED = r"(?:do not|don't|dont|did not|didn't|didnt|cannot|can not|can't|cant|could not|couldn't)"
# "I don't know", "I'd like to know": states nothing on its own.
UNCERTAINTY = re.compile(
    r"(?:(?:well|so|and|but) )?(?:"
    r"(?:(?:i|we|you) )?(?:have |got |'ve got )?(?:(?:any|no|not an?|not the slightest) )?(?:idea|clue)"
    r"|(?:i |we )?(?:just |really |totally |honestly |simply )*"
    rf"(?:forgot|forget|have forgotten|{_NEGATED} (?:know|recall|remember|understand)|wonder|wondering"
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
UNCERTAIN_QUESTION = re.compile(rf"{UNCERTAINTY.pattern}:?,? {_WH_CLAUSE}")
QUESTION_LABEL = re.compile(  # "quick question:", "@name:"
    r"(?:(?:(?:my|a|one|just a|another|quick|one quick|just one|simple|the) )*(?:question|q)\s*[:,\-–—]"
    r"|quick question|@[\w.\-]+[:,]?)\s+"
)
OTHER_CLAUSE = re.compile(
    r"[,;:!]|\s[-–—]\s|\b(?:but|because|since|so|though|although)\b"
)  # starts another clause
_SUBJECT = r"(?:i|you|u|he|she|it|we|they|there|this|that|these|those|the|my|your|his|her|our|their|its)"
BARE_QUESTION = re.compile(rf"where (?!there\b)\w|(?:when|how|what|whom|whose \w+) {_SUBJECT} \w")
FINAL_WH = re.compile(  # "she lives where", "she lives in which town"
    r"\w (?:where|who|whom|when|what)$|\w (?:in|at|on|to|from|with|by|of|for) (?:which|what|whose) \w+$"
)
FINAL_WH_IN_STATEMENT = re.compile(
    r"\b(?:know|knows|knew|care|cares|matter|guess|guessed|say|says|said|tell|tells|told|asked|sure|and|or|no|"
    r"is|that's|of|some|any|every|since|so|for|you) \w+$"
)
# A question that starts in mid-sentence: "my name is Tom where does Simsem live".
EMBEDDED_QUESTION = re.compile(
    rf"\s+(?:and |but |so )?(?=(?:where|when|why|how|whom) (?:does|do|did) [^\W_]+ [^\W_]"
    r"|(?:what|who|where|when|why|how|whose|which) "
    rf"(?:is|are|was|were|does|do|did|can|should|will) {_SUBJECT}\b)",
    re.IGNORECASE,
)
REPORTING_WORDS = re.compile(  # before a reported question
    r"\b(?:ask\w*|know\w*|knew|tell\w*|told|say\w*|said|explain\w*|understand\w*|remember\w*|show\w*|see|saw|"
    r"learn\w*|wonder\w*|forg[eo]t\w*|discuss\w*|about|idea|recall)(?: (?:me|him|her|us|them|you|[A-Z]\w*))?$"
)
FIRST_PERSON = frozenset("i we my our i'm i've i'd i'll we're we've im ive mine".split())
# States a fact in the form of a question: "did you know I live in Oslo?"
DISCLOSURE = re.compile(
    r"(?:(?:do|did) (?:you|u) (?:know|remember|recall)|(?:i |i'm |i am )?wonder(?:ing)? (?:if|whether) you "
    r"(?:know|knew|remember)|are you aware|you know)(?: that)? "
    r"(?=(?:i|we|i'm|i've|i'd|i'll|we're|we've)\b"
    r"|(?:my|our) (?:[\w'-]+ ){1,4}(?:is|are|was|were|has|have|\w+s) )"
    r"|did (?:you|u) know that "
)
LABELLED_FACT = re.compile(
    r"(?:check|list|find|save|help|how to)\b[^:]{2,80}: +(?=\S)"
)  # "how to reach me: +47 123"

# Other languages
# Words that start a question and hardly ever a statement.
FOREIGN_WH = frozenset(
    "wo woher wohin wer wen wem wessen wann warum wieso weshalb welche welcher welches welchen "
    "où pourquoi combien quel quelle quels quelles "
    "dónde adónde quién quiénes cuándo cuánto cuánta cuántos cuántas cómo qué cuál cuáles "
    "onde quem quanto quantos quantas dov'è chi "
    "где кто куда откуда почему зачем сколько какой какая какое какие чей чья де хто чому "
    "waar wie waarom hoeveel nerede kim neden kde hur varför vem kuka missä".split()
)
FOREIGN_QUESTION_STARTS = ("est-ce ", "qu'est-ce ", "por qué ", "क्या ", "hva ", "hvor ", "hvem ")
FOREIGN_QUESTION_ENDS = tuple(
    "吗 嗎 呢 么 ですか ますか でしたか ましたか ませんか でしょうか だろうか 니까 나요 "
    "ไหม มั้ย หรือไม่ หรือเปล่า".split()
)
FOREIGN_QUESTIONS = tuple(
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
UNSPACED_WH = re.compile(
    r"哪里|哪裡|哪儿|哪兒|什么时候|什麼時候|几点|幾點|谁|誰|为什么|為什麼|多少|怎么|什么|什麼"
    r"|(?:どこ|だれ|誰|いつ|何時|何歳|なぜ|どうして|いくら)(?!か(?!ら)|も|でも)|何(?:を|が|の|で|と)(?!も)"
    r"|어디(?!든|서나)|누구(?!나|든)|누가|언제(?!나|든)|무엇|왜(?!냐)|어떻게|몇"
)
UNSPACED_STATEMENT = re.compile(
    r"(?<![不没沒])知道|告诉|告訴|都|无论|無論|不管|没什么|沒什麼|怎么样也"
    r"|か(?:を|は|も)?知って|か(?:を|は)?わかって|지 알"
    r"|[，,、；;：:]"
)
_FOREIGN_GREETINGS = frozenset(
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
_POLITE_WORDS = _FOREIGN_GREETINGS | frozenset(
    "you very much there good morning afternoon evening night bye goodbye cheers nice great cool fine lol "
    "haha hahaha wow thx ty yup nope sure see later so ok k".split()
)
GREETING_WORDS = FILLERS | _POLITE_WORDS
