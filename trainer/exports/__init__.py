"""What a trained generator can leave as: a folder for the Hugging Face hub, and programs of other runtimes.

A format is one file here: `write(exported, path)`, and a `Generator` that draws with what it wrote.
"""
