"""What is stated and what is asked, in the words that people use."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkit.text.dialogue_acts import extract_statements, is_question

ASKED = """
Where does Simsem live?
where does Simsem live
where does simsem live
Where is she
What is her horse called.
what's her horse called
what’s her horse called
What city is Rolan in
what time does the ferry leave
who lives in Lasces
whose horse is Shopux
how many bees does Rolan keep
how old is Mira
How do I get there
tell me where Simsem lives
Please tell me where Simsem lives.
Could you tell me where Simsem lives.
could you help me find Simsem
Can you remember where Simsem lives?
Do you remember Simsem?
does Simsem live in Lasces
did Simsem move
is Simsem at home
Does Dr. Simsem live here
are there any ferries to Osk
will Simsem come tomorrow
hi Rolan, where do you live
Hey, who is Will
I wonder where Simsem lives.
i would like to know where simsem lives
Give me her address
what about Rolan
in which city does Simsem live
to whom does the horse belong
do you have any idea where Simsem lives
remind me what I told you about Simsem
Find the address of Simsem
Good morning! Where does Simsem live
was Simsem in Lasces
심셈은 어디에 삽니까
सिमसेम कहाँ रहती है?
Simsem lives in Lasces, right?
Simsem lives in Lasces, doesn't she?
If I go to Osk, where should I stay?
Where is it? :)
"Where is it?"
Where is it?!
你住在哪里？
any idea where Simsem lives
Simsem lives where
i forgot where Simsem lives
I can't recall where Simsem lives
Simsem lives in which town
can u tell me where Simsem lives
do u know where Simsem lives
where simsem lives
i'd love to know where Simsem lives
i'm curious where Simsem lives
not sure where Simsem lives
no idea where Simsem lives
Q: where does Simsem live
quick question: where does Simsem live
@bot where does Simsem live
whats her horse called
Kannst du mir sagen wo Simsem wohnt
Kannst du mir sagen, wo Simsem wohnt
Weißt du wo Simsem wohnt
Sais-tu où habite Simsem
Dime dónde vive Simsem
Puoi dirmi dove vive Simsem
Скажи где живет Симсем
我住在哪里
أين يعيش سيمسيم
심심은 어디에 살아요
シムセムはどこに住んでる
I do not know where Simsem lives
Simsem住在哪里吗
シムセムはどこに住んでいますか。
أين تسكن سيمسم؟
Πού μένει η Σίμσεμ;
Πού μένει η Σίμσεμ\u037e
¿Dónde vive Simsem?
dónde vive Simsem
wo wohnt Simsem
où habite Simsem
где живет Симсем
Որտե՞ղ է ապրում
ሰላም፧
""".strip().splitlines()
STATED = """
Simsem lives in Lasces.
simsem lives in lasces
I live in Lasces
When I was young, I lived in Lima.
What I like is tea.
Where she lives, it rains.
Will Smith is an actor.
Will lives in Osk.
May is my favourite month.
Did my homework.
Was in Paris yesterday.
Have a nice day
Do not forget: the ferry leaves at nine.
Please remember that I live in Osk.
Could you remember that I live in Osk?
Could you please note: my dog is called Tovin?
Remind me to buy milk.
Had I known, I had come.
How nice of you!
What a lovely day.
Ich wohne in Lasces; sie auch.
She asked "where is it?" and left.
See https://x.org/a?b=c for it.
Rolan, who is a painter, lives in Osk.
I met Rolan, who is a painter.
Which is why I moved.
私はリマに住んでいます。
我住在利马。
أسكن في ليما.
Me gusta el té.
Hello, I am Mira.
If it rains I stay at home.
My name is Will.
Always answer in German.
Do it tomorrow.
Will do.
Could not sleep last night.
Have moved to Osk.
Mark lives in Tarv.
How I got here is a long story.
I told Simsem that I live in Osk.
I know where Simsem lives: in Lasces.
Remember: the code is 4711.
No, I live in Osk.
I will show you where Simsem lives.
Je sais où elle habite.
Is raining today
I like "Who's Afraid of Virginia Woolf?"
Check my blood pressure: 120/80
Name my dog Rex
How to reach me: +47 123
My page is https://a.b/c?
Did you know I live in Oslo?
Isn't a fan of cats.
I wonder if you know that I moved to Oslo.
I forgot where I put it, but Rolan has one.
That is where I live.
Where there is love there is life
谁都喜欢她
我知道他住在哪里
彼はいつも忙しい
彼がどこに住んでいるか知っています
Sais la vérité.
Ich weiß, wo sie wohnt.
Sabe que vivo en Lima.
I asked her where does she live
Dr. Simsem lives in Lasces. So does J. Rolan.
""".strip().splitlines()


@pytest.mark.parametrize("text", ASKED)
def test_a_question_states_nothing(text: str) -> None:
    assert is_question(text)
    assert extract_statements(text) == ""


@pytest.mark.parametrize("text", STATED)
def test_a_statement_stays_as_it_is(text: str) -> None:
    assert not is_question(text)
    assert extract_statements(text) == text


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("I live in Osk. Where do you live?", "I live in Osk."),
        ("Where do you live? I live in Osk. I like tea.", "I live in Osk. I like tea."),
        ("where do you live? i live in osk.", "i live in osk."),
        ("Simsem lives in Lasces\nwhere does Rolan live", "Simsem lives in Lasces"),
        ("I moved to Osk, what should I see there?", "I moved to Osk."),
        ("My dog is called Tovin, what is yours called?", "My dog is called Tovin."),
        ("Does Dr. Simsem live here? She is 40.", "She is 40."),
        ("我住在利马。你住在哪里？我有一只狗。", "我住在利马。我有一只狗。"),
        ("Vivo en Lima ¿y tú dónde vives?", "Vivo en Lima"),
        ("Hi! I live in Osk. Could you tell me where Simsem lives?", "I live in Osk."),
        ("I live in Osk, can you tell me where Rolan lives", "I live in Osk."),
        ("Hi! Thank you very much!", ""),
        ("I live in Oslo, right?", "I live in Oslo."),
        ("Since I live in Oslo, what's the weather?", "Since I live in Oslo."),
        ("My sister lives in Oslo and where does she work", "My sister lives in Oslo."),
        ("I wonder where she is, but I live in Osk", "I live in Osk."),
        ("my name is tom where does simsem live", "my name is tom."),
        ("", ""),
        ("?!", ""),
    ],
)
def test_statements_beside_questions(text: str, stated: str) -> None:
    assert extract_statements(text) == stated


@pytest.mark.parametrize(
    "text",
    "Guten Morgen|Hallo!|Bonjour|Hola|Ciao|Olá|Привет|こんにちは|ありがとう|你好|谢谢|안녕하세요".split("|"),
)
def test_a_greeting_states_nothing(text: str) -> None:
    assert extract_statements(text) == ""


@pytest.mark.parametrize("text", ["Hello", "hi", "Thank you", "yes", "no", "bye", "ok"])
def test_a_word_of_politeness_states_nothing(text: str) -> None:
    assert extract_statements(text) == ""


@pytest.mark.parametrize("mark", ["?", ".", "!", "?!", '?"', "…"])
def test_a_long_run_of_marks_is_read_once(mark: str) -> None:
    text = "a" + mark * 100_000 + "b"
    assert extract_statements(text) == text


@given(st.text())
def test_any_text_can_be_read(text: str) -> None:
    assert len(extract_statements(text)) <= len(text)
    if "?" not in text and not is_question(text):
        assert extract_statements(text) in ("", text.strip())


@pytest.mark.parametrize(
    "text", ["a, what is ", "?", "where is it? ", "x", "¿", "hi ", "Dr. ", "\u0301", "\n"]
)
def test_long_texts_take_no_long_time(text: str) -> None:
    started = time.perf_counter()
    extract_statements(text * 50_000)
    assert time.perf_counter() - started < 5
