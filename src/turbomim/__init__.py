"""turbomim: the fastest way from JPEGs to a pre-trained vision encoder by masked image modelling.

Bytes flow one way: shards -> sample stream -> DALI batch (uint8) -> fused kernel -> model -> loss -> step
-> checkpoint.

Shape suffixes, everywhere: B batch, C channels, H W pixels, N patches (samples, in an index), K kept,
M masked (N - K), D encoder width, E decoder width, P values of a patch (p * p * 3), A heads, F hidden.
Mask polarity: 1 = removed, 0 = kept.
"""

__version__ = "0.1.0"
