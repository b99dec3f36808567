"""The Kaggle side: where things are mounted, the offline bundle, the kernels' metadata, pushing and rehearsing.

Importing it loads nothing; each module is imported by whoever needs it, so that a notebook can ask `paths` where its data
lies before torch is loaded.
"""
