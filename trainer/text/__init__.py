"""Captions to `Condition`: frozen pretrained encoders behind a disk cache, or a small one trained with the model.

An encoder has `width`, `max_tokens`, `prepare(captions) -> features` (once, before training; `features[int array]` is a
`Condition`, in float16) and `encoder(captions) -> Condition` (any caption, when sampling). Every condition is padded to
exactly `max_tokens`, and every caption, even an empty one, has at least one token.
"""
