"""The same faults for Runlane and two peers, and what each of them makes of it: ``python -m tests.chaos.peers --help``.

It counts only what can be counted of all three alike: from outside, by a file in which handlers note when they start
and end, and by the tables in which each library says what it believes of a job.
"""
