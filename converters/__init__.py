"""Models of other frameworks to ONNX: one file per framework behind one protocol.

Nothing here is imported with a framework: these are imported inside `convert` alone, in the child
process, after the file was looked at without them.
"""
