package db

import (
	"bytes"

	"github.com/pulkdb/db/tree"
)

// A readSet is what a transaction has read: keys, present or absent, and ranges
// as far as they were scanned. Neighbouring reads are joined, so it takes memory
// for the disjoint ranges only: one for a scan, however long.
type readSet struct {
	spans spanSet

	// The read that is under way, not yet in spans. Its slices are the readSet's
	// own and grow in place, so that a step of a scan allocates nothing.
	run     span
	running bool
	from    []byte // buffers of run
	to      []byte
}

func newReadSet() readSet { return readSet{spans: newSpanSet()} }

// add notes that the keys in [lo, hi) were read.
func (r *readSet) add(lo, hi []byte) {
	x := span{lo, hi}
	switch {
	case x.empty():
		return
	case r.running && r.run.contains(x):
		return
	case r.running && r.run.meets(x):
		if bytes.Compare(lo, r.run.lo) < 0 {
			r.start(lo)
		}
		if endsBefore(r.run.hi, hi) {
			r.end(hi)
		}
		return
	}
	r.settle()
	r.start(lo)
	r.end(hi)
	r.running = true
}

func (r *readSet) start(lo []byte) {
	r.from = append(r.from[:0], lo...)
	r.run.lo = r.from
}

func (r *readSet) end(hi []byte) {
	r.run.hi = nil
	if hi != nil {
		r.to = append(append(r.to[:0], hi...), 0)[:len(hi)] // never nil
		r.run.hi = r.to
	}
}

// settle puts the run where the others are.
func (r *readSet) settle() {
	if !r.running {
		return
	}
	r.running = false
	if x, ok := r.spans.find(r.run.lo); ok && x.contains(r.run) {
		return
	}
	x := span{hi: bytes.Clone(r.run.hi)}
	if _, ok := r.run.key(); ok {
		x.lo = x.hi[: len(x.hi)-1 : len(x.hi)-1] // one allocation for a key
	} else {
		x.lo = append([]byte{}, r.run.lo...)
	}
	r.spans.add(x)
}

// tree returns the reads as package tree takes them.
func (r *readSet) tree(moment *tree.Moment) *tree.Reads {
	r.settle()
	out := &tree.Reads{Moment: moment}
	r.spans.spans.Ascend(func(x span) bool {
		if key, ok := x.key(); ok && len(key) <= MaxKeyBytes {
			out.Keys = append(out.Keys, key)
		} else if x, ok := x.storable(); ok {
			out.Ranges = append(out.Ranges, tree.Range{Lo: x.lo, Hi: x.hi})
		}
		return true
	})
	return out
}
