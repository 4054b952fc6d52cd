"""A small real world to learn from: drawn shapes, six abstract glyphs that stand for six risks."""
