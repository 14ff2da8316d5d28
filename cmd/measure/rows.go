package main

import (
	"encoding/binary"
	"fmt"
	"math"
	"sync/atomic"
)

const keyBytes = 16

// rows are the keys and values of a store: what they are, and which are present.
type rows struct {
	// Immutable.
	keys       int
	valueBytes int // at least 8

	// Atomic.
	present []atomic.Uint32 // a bit for each key
	count   atomic.Int64    // of these bits
}

func newRows(keys, valueBytes int) *rows {
	return &rows{keys: keys, valueBytes: valueBytes, present: make([]atomic.Uint32, keys/32+1)}
}

// rowBytes is what a row counts as live data.
func (r *rows) rowBytes() int64 { return keyBytes + int64(r.valueBytes) }

// live returns the live data in bytes.
func (r *rows) live() int64 { return r.count.Load() * r.rowBytes() }

// all is what live returns when every key is present.
func (r *rows) all() int64 { return int64(r.keys) * r.rowBytes() }

func (r *rows) has(i int) bool { return r.present[i/32].Load()>>(i%32)&1 != 0 }

// noteSet and noteDelete say what has become of key i. Deletions of one key must
// not be concurrent with other writes to it.
func (r *rows) noteSet(i int) {
	if bit := uint32(1) << (i % 32); r.present[i/32].Or(bit)&bit == 0 {
		r.count.Add(1)
	}
}

func (r *rows) noteDelete(i int) {
	if bit := uint32(1) << (i % 32); r.present[i/32].And(^bit)&bit != 0 {
		r.count.Add(-1)
	}
}

// mix is a bijection of 64 bits (the finalizer of SplitMix64).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// appendKey appends key i.
func appendKey(dst []byte, i int) []byte {
	x := mix(uint64(i) + 1)
	dst = binary.BigEndian.AppendUint64(dst, x)
	return binary.BigEndian.AppendUint64(dst, mix(x))
}

const text = "what a value holds in most programs is text or numbers that resemble each other. "

// appendValue appends a value of key i; version tells the values of a key apart.
func (r *rows) appendValue(dst []byte, i int, version uint64) []byte {
	start := len(dst)
	dst = binary.LittleEndian.AppendUint64(dst, version)
	x := version ^ mix(uint64(i))
	for n := r.valueBytes/2 - 8; n > 0; n -= 8 {
		x += 0x9e3779b97f4a7c15
		var p [8]byte
		binary.LittleEndian.PutUint64(p[:], mix(x))
		dst = append(dst, p[:min(n, 8)]...)
	}
	for n := r.valueBytes - (len(dst) - start); n > 0; n = r.valueBytes - (len(dst) - start) {
		dst = append(dst, text[:min(n, len(text))]...)
	}
	return dst
}

// check returns an error if value was never written under key i. buf is room for
// a value.
func (r *rows) check(i int, value []byte, buf *[]byte) error {
	if len(value) == r.valueBytes {
		*buf = r.appendValue((*buf)[:0], i, binary.LittleEndian.Uint64(value))
		if string(*buf) == string(value) {
			return nil
		}
	}
	return fmt.Errorf("key %d has a value of %d bytes that was never written there", i, len(value))
}

// A zipf draws ranks from 0 to n-1, of which rank k has a probability
// proportional to 1/(k+1)^s, for s below 1, which math/rand does not have. The
// method is that of Gray et al., "Quickly Generating Billion-Record Synthetic
// Databases", SIGMOD 1994, as YCSB uses it.
type zipf struct {
	n                   int
	s, alpha, zeta, eta float64
}

func newZipf(n int, s float64) *zipf {
	zeta := func(n int) (sum float64) {
		for i := n; i > 0; i-- {
			sum += math.Pow(float64(i), -s)
		}
		return sum
	}
	z := &zipf{n: n, s: s, alpha: 1 / (1 - s), zeta: zeta(n)}
	z.eta = (1 - math.Pow(2/float64(n), 1-s)) / (1 - zeta(2)/z.zeta)
	return z
}

// rank returns the rank that belongs to x, which is to be uniform.
func (z *zipf) rank(x uint64) int {
	u := float64(x>>11) / (1 << 53)
	switch uz := u * z.zeta; {
	case uz < 1:
		return 0
	case uz < 1+math.Pow(0.5, z.s):
		return min(1, z.n-1)
	}
	return min(int(float64(z.n)*math.Pow(z.eta*u-z.eta+1, z.alpha)), z.n-1)
}

// below returns a number below n that belongs to x, which is to be uniform.
func below(x uint64, n int) int { return int(x % uint64(n)) }
