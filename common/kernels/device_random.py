"""Random numbers that are a function of a key and a place: the same on CPU and GPU, for any order of drawing.

Philox 4x32-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011). Each number has its own counter, so
noise depends neither on which thread draws it nor on what was drawn before: a resumed run needs no state of it.
"""
import numpy

_M0, _M1, _W0, _W1 = 0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85
_LOW = numpy.uint64(0xFFFFFFFF)

PREAMBLE = """
struct Four { unsigned int a, b, c, d; };
__device__ inline Four philox(unsigned long long place, unsigned long long draw, unsigned long long key) {
    Four v = {(unsigned int)place, (unsigned int)(place >> 32), (unsigned int)draw, (unsigned int)(draw >> 32)};
    unsigned int k0 = (unsigned int)key, k1 = (unsigned int)(key >> 32);
    for (int round = 0; round < 10; ++round) {
        const unsigned long long p = 0xD2511F53ull * v.a, q = 0xCD9E8D57ull * v.c;
        const Four next = {(unsigned int)(q >> 32) ^ v.b ^ k0, (unsigned int)q,
                           (unsigned int)(p >> 32) ^ v.d ^ k1, (unsigned int)p};
        v = next;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return v;
}
__device__ inline double unit(unsigned int bits) { return (bits + 0.5) * (1.0 / 4294967296.0); }
"""


def philox(place, draw, key):
    """Four uint32 arrays for uint64 arrays ``place`` (which number) and ``draw`` (which attempt), and a key < 2^64."""
    place, draw = numpy.broadcast_arrays(numpy.asarray(place, numpy.uint64), numpy.asarray(draw, numpy.uint64))
    thirty_two = numpy.uint64(32)
    a, b, c, d = place & _LOW, place >> thirty_two, draw & _LOW, draw >> thirty_two
    k0, k1 = int(key) & 0xFFFFFFFF, int(key) >> 32
    for _ in range(10):
        p, q = numpy.uint64(_M0) * a, numpy.uint64(_M1) * c
        a, b, c, d = ((q >> thirty_two) ^ b ^ numpy.uint64(k0), q & _LOW,
                      (p >> thirty_two) ^ d ^ numpy.uint64(k1), p & _LOW)
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    return tuple(v.astype(numpy.uint32) for v in (a, b, c, d))


def unit(bits):
    """uint32 as float64 strictly between 0 and 1."""
    return (bits + 0.5) * (1.0 / 4294967296.0)
