"""The code location `dagster dev` opens: the demo pipeline over its twelve prompts.

Copy `demo_definitions` from `genblaze_dagster/demo.py` as the start of your own.
"""

from genblaze_dagster.demo import demo_definitions

defs = demo_definitions()
