"""What can be proven of the author's code: exact zeros, order, between which bounds a result lies.

A question is answered with a proof or with no; nothing here samples.
"""
