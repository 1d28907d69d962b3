"""The formula in plain tensor operations: what textbooks print, and the same without expansion."""
