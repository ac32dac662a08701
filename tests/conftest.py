"""How many examples a property gets: 50 in `make check`, a thousand with HYPOTHESIS_PROFILE=thorough."""

import os

import hypothesis

# No deadlines: a loaded machine is slow, and that is no fault of the code.
hypothesis.settings.register_profile("check", max_examples=50, deadline=None, print_blob=True)
hypothesis.settings.register_profile("thorough", max_examples=1000, deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "check"))
