"""The hot loops in compiled code: each has a plain torch path beside it and a test that they agree."""
