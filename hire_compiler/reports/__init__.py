"""What is answered: sites, misses, decisions and figures as plain frozen data, printed as text or JSON.

Everything that a stage finds or decides becomes one of these, and is never looked up anywhere else.
"""
