package tree

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"

	"github.com/pulkdb/db/internal/crashtest"
)

// A wreckage is what is left of a wreck.
type wreckage struct {
	*wreck
	files map[string][]byte
	hits  map[string][]wreckHit
	what  string
	left  []bool // by update: all of its bytes are
	done  crashtest.Damage
}

// whole returns all of it.
func (x *wreck) whole() *wreckage {
	y := &wreckage{wreck: x, files: maps.Clone(x.files), hits: map[string][]wreckHit{}, left: make([]bool, len(x.updates))}
	for i := range y.left {
		y.left[i] = true
	}
	return y
}

// damage changes bytes of updates, and cuts and takes away files, n times. What the
// page-table snapshot says is left: with it, only those keys may be lost that are.
func (x *wreck) damage(rng *rand.Rand, n int) *wreckage {
	y := x.whole()
	if len(x.updates) == 0 {
		return y
	}
	for range n {
		u := x.updates[rng.IntN(len(x.updates))]
		data := bytes.Clone(y.files[u.file])
		at := u.offset + rng.Int64N(int64(u.Position.Size))
		if int64(len(data)) <= at {
			continue
		}
		from, to := at, int64(x.segment)
		switch kind := rng.IntN(10); {
		case kind == 0:
			delete(y.files, u.file)
			from = 0
			y.done.Files++
			y.what += fmt.Sprintf("%s missing; ", u.file)
		case kind == 1:
			y.files[u.file] = data[:at]
			y.done.Cut++
			y.what += fmt.Sprintf("%s cut at %d; ", u.file, at)
		case kind == 2 && x.needed[u.file]: // of others nothing might say that they count
			clear(data[:wreckHeader])
			y.files[u.file] = data
			from, to = 0, wreckHeader
			y.done.Files++
			y.what += fmt.Sprintf("%s without its header; ", u.file)
		default:
			data[at] ^= byte(1 + rng.IntN(255))
			y.files[u.file] = data
			to = at + 1
			y.done.Flipped++
			y.what += fmt.Sprintf("%s changed at %d; ", u.file, at)
		}
		y.hits[u.file] = append(y.hits[u.file], wreckHit{from, to})
		for i, v := range x.updates {
			if v.file == u.file && v.offset < to && v.offset+int64(v.Position.Size) > from {
				y.left[i] = false
			}
		}
	}
	return y
}
