package workload

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
)

// KeyBytes is the length of every key.
const KeyBytes = 16

// Rows are the keys and values of a store: what they are, and which are present.
type Rows struct {
	// Immutable.
	Keys       int
	ValueBytes int // at least 16

	// Atomic.
	present []atomic.Uint32 // a bit for each key
	count   atomic.Int64    // of these bits
}

// NewRows returns rows of which none is present.
func NewRows(keys, valueBytes int) *Rows {
	return &Rows{Keys: keys, ValueBytes: valueBytes, present: make([]atomic.Uint32, keys/32+1)}
}

// RowBytes is what a row counts as live data.
func (r *Rows) RowBytes() int64 { return KeyBytes + int64(r.ValueBytes) }

// Live returns the live data in bytes.
func (r *Rows) Live() int64 { return r.count.Load() * r.RowBytes() }

// All is what Live returns when every key is present.
func (r *Rows) All() int64 { return int64(r.Keys) * r.RowBytes() }

// Count is how many rows are present.
func (r *Rows) Count() int { return int(r.count.Load()) }

// Has reports whether key i is present.
func (r *Rows) Has(i int) bool { return r.present[i/32].Load()>>(i%32)&1 != 0 }

// NoteSet and NoteDelete say what has become of key i. Deletions of one key must
// not be concurrent with other writes to it.
func (r *Rows) NoteSet(i int) {
	if bit := uint32(1) << (i % 32); r.present[i/32].Or(bit)&bit == 0 {
		r.count.Add(1)
	}
}

func (r *Rows) NoteDelete(i int) {
	if bit := uint32(1) << (i % 32); r.present[i/32].And(^bit)&bit != 0 {
		r.count.Add(-1)
	}
}

// Mix is a bijection of 64 bits (the finalizer of SplitMix64).
func Mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// AppendKey appends key i.
func AppendKey(dst []byte, i int) []byte {
	x := Mix(uint64(i) + 1)
	dst = binary.BigEndian.AppendUint64(dst, x)
	return binary.BigEndian.AppendUint64(dst, Mix(x))
}

// KeyIndex returns which key it is that AppendKey made.
func KeyIndex(key []byte) int { return int(unmix(binary.BigEndian.Uint64(key)) - 1) }

// unmix is the inverse of Mix.
func unmix(x uint64) uint64 {
	x = (x ^ x>>31 ^ x>>62) * 0x319642b2d24d8ec3
	x = (x ^ x>>27 ^ x>>54) * 0x96de1b173f119089
	return x ^ x>>30 ^ x>>60
}

const text = "what a value holds in most programs is text or numbers that resemble each other. "

// AppendValue appends a value of key i; version tells the values of a key apart.
func (r *Rows) AppendValue(dst []byte, i int, version uint64) []byte {
	start := len(dst)
	dst = binary.LittleEndian.AppendUint64(dst, version)
	x := version ^ Mix(uint64(i))
	for n := r.ValueBytes/2 - 8; n > 0; n -= 8 {
		x += 0x9e3779b97f4a7c15
		var p [8]byte
		binary.LittleEndian.PutUint64(p[:], Mix(x))
		dst = append(dst, p[:min(n, 8)]...)
	}
	for n := r.ValueBytes - (len(dst) - start); n > 0; n = r.ValueBytes - (len(dst) - start) {
		dst = append(dst, text[:min(n, len(text))]...)
	}
	return dst
}

// Check returns an error if value was never written under key i. buf is room for
// a value.
func (r *Rows) Check(i int, value []byte, buf *[]byte) error {
	if len(value) == r.ValueBytes {
		*buf = r.AppendValue((*buf)[:0], i, binary.LittleEndian.Uint64(value))
		if string(*buf) == string(value) {
			return nil
		}
	}
	return fmt.Errorf("key %d has a value of %d bytes that was never written there", i, len(value))
}

// Below returns a number below n that belongs to x, which is to be uniform.
func Below(x uint64, n int) int { return int(x % uint64(n)) }
