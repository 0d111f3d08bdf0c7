"""Maths answers: `extraction` finds one in a text, `grader` tells whether it is the reference's.

`spelling` and `tokens` bring a text into one form, `reading` and `expressions` make a structure of it, `values` works
out what an expression is worth; `equality` compares answers, `equivalence` the expressions in them. What we cannot read
goes to math-verify in `external`.
"""
