"""Strict decoding in child processes, which may crash, hang or fill their memory and harm no one.

`child` is what such a process runs. It imports only Pillow, numpy and the perceptual hash, and so
does all that it needs of this package: no module here may import more.
"""
