"""Recovery without a model, without the daemon, and without trusting what may be broken.

`findings` (what is wrong, and the vetted repair) · `ground` (what all checks stand on) · `check_*`
(one matter each; they change nothing) · `repairs` (what a repair is: a snapshot, then the act, then
the same check again) · `snapshots` (what was there before, and how far a repair came) · `recording`
(the ledger, or a journal until there is one again) · `good` (the last good configuration) ·
`diagnosis` (all checks). Standard library at the top of every module: everything else, ours or not,
is imported where its failure becomes a finding.
"""
