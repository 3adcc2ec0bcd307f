"""Whether a judge refuses to judge: some do so within the requested format, with scores beside it."""

from __future__ import annotations

import re

_NOT = r"(?:cannot|can not|can't|could not|couldn't|will not|won't|must decline to|(?:am |'m )?(?:unable|not able) to)"
_ABLE = rf"(?:{_NOT}|(?:do not|don't) have the (?:ability|capability) to)"
_PLACED = r"(?:provided|given|supplied|attached|shared|available|uploaded|submitted)"
_WORDS = rf"(?:(?:actual|edited|generated|input|original|source|two|ai generated|{_PLACED}) )*"
_PICTURE = rf"(?:(?:the|this|that|these|those|your|any|an?|both|either) )?{_WORDS}(?:images?|pictures?|photos?)"
_TASK = r"(?:(?:the|this|that|these|those|your|any|an?) )?(?:text )?(?:prompts?|requests?|content|tasks?)"
_SCORE = (
    r"(?:(?:the|this|your|any|an?) )?(?:(?:accurate|fair|meaningful|numerical|proper|reliable|valid) )?"
    r"(?:answers?|assessments?|comparisons?|evaluations?|judge?ments?|ratings?|scores?)"
)
# What a statement must end with, or go on with, to be about the whole and not about a part or a grade of it.
_WHOLE = (
    r"(?=\W*$|[.;:!?)]|,(?! (?:which|that|but|however|yet))"
    r"| (?:and|or|because|since|due to|without|directly|if|at all)\b"
    rf"| as (?:no|none|there|it|i|they|{_PICTURE} (?:is|are|was|were))\b|,? but i\b"
    rf"| (?:for|of|in|from) (?:this|that|these|those|(?:real )?people|{_PICTURE})\b"
    rf"| (?:that )?(?:is|are|was|were|has been|have been|you|contain|show|depict|{_PLACED})\b)"
)
_LOOK = r"(?:access|load|open|process|see|view)"
_JUDGE = r"(?:analy[sz]e|assess|compare|evaluate|judge|rate|score)"
_MAKE = r"(?:complete|conduct|determine|give|make|perform|provide)"
_VERBS = rf"(?:{_LOOK}|{_JUDGE}|interpret)(?:(?:,| or| and|, or|, and) (?:{_LOOK}|{_JUDGE}|interpret))*"
_DECLINED = (
    rf"(?:\w+ly )?(?:{_VERBS} {_PICTURE}"
    rf"|{_JUDGE} (?:it|this|that|them|these|people|individuals|(?:(?:the|this|any) )?edits?|{_TASK})"
    rf"|{_MAKE} (?:(?:it|this|you|them) )?(?:{_SCORE}|{_TASK})"
    r"|(?:assist|help|comply|continue|proceed)(?: you)?"
    rf"(?: (?:with|on|further)(?: (?:it|this|that|{_TASK}|{_SCORE}))?)?"
    rf"|(?:fulfil+|process) {_TASK}){_WHOLE}"
)
_SORRY = r"(?:sorry|(?:my )?apologies|(?:i|we)(?: am|'m| are|'re) (?:\w+ )?sorry|(?:i|we)(?: must)? apologi[sz]e)"
_ANYTHING = (
    r"(?:answer|assist|comply|discuss|engage|help(?! but)|process|proceed|respond|do (?:that|this)"
    r"|(?:describe|identify) (?:(?:any|real|the|these) )?(?:faces|individuals|people|persons?))"
)
_REFUSAL = re.compile(
    rf"\b(?:i|we) ?{_ABLE} {_DECLINED}|^\W*(?:unable|not able) to {_DECLINED}"
    rf"|\bas an ai\b[^.,;!?]*, (?:i|we) (?:{_ABLE}|do not|don't) {_DECLINED}"
    rf"|^\W*{_SORRY}\W*(?:but )?(?:(?:i|we) ?{_NOT} (?:\w+ly )?{_ANYTHING}\b|(?:no\W*)?$"
    rf"|(?:this|that|it|{_TASK})(?:'s| is| goes)? (?:not (?:possible|allowed|something)|against|beyond|violates)\b)"
    rf"|(?:^|[.,;:!?] |\b(?:so|and|therefore|thus) )(?:{_PICTURE}|(?:the |an? )?edits?|{_SCORE})"
    r" (?:cannot|can not|can't) be (?:accurately |properly )?"
    rf"(?:evaluated|scored|rated|assessed|judged|provided|given|conducted|completed|performed|processed|accessed){_WHOLE}"
    rf"|\bno {_WORDS}(?:text )?(?:images?|pictures?|photos?|prompts?)"
    rf" (?:was|were|is|are|has been|have been) {_PLACED}\b(?! up)(?!,? (?:but|however|yet|though))"
)
_PLAIN = str.maketrans({"\u2019": "'", "-": " "})


def is_refusal(text: str) -> bool:
    """Whether an English text is a refusal to judge: "I'm sorry, I cannot assist", "no image was given".

    It must refuse the images, the request or the score as a whole. Statements about a picture are no refusals ("I
    cannot see the dog", "a sign that reads SORRY"), nor are those about a grade ("I cannot give full marks"): in doubt,
    a low score is kept, as means would be too high without it.
    """
    return bool(_REFUSAL.search(" ".join(text.lower().translate(_PLAIN).split())))
