package tree

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"sync"

	"github.com/pulkdb/db/internal/crashtest"
	"github.com/pulkdb/db/internal/vfs"
	"github.com/pulkdb/db/log"
	"github.com/pulkdb/db/snapshot"
)

// A wreck is a store that was closed, and all that is known of it while it is whole:
// each update in its log, byte by byte, and each page as the page-table snapshot has
// it. From that follows what a Salvage of it must bring out and report, key by key,
// once some bytes are others: see expected.
type wreck struct {
	files   map[string][]byte
	state   crashtest.State
	stuck   map[string]bool            // keys with an operand on which the Merger fails
	had     map[string]map[string]bool // all values of each key
	updates []wreckUpdate              // by LSN
	slots   map[PID]snapshot.Slot
	needed  map[string]bool // segments, by the page-table snapshot
	segment uint64          // bytes
}

type wreckUpdate struct {
	log.Salvaged        // with its payload
	record       int    // which one it is in: those of one record lie one behind the other
	file         string // where
	offset       int64
}

const wreckKeys = 120

// wreckMerger puts the operand behind the base, and forgets the beginning of what
// is too long. It makes nothing of an operand that begins with x, and fails on one
// that begins with f.
func wreckMerger(_, base, operand []byte) ([]byte, error) {
	switch operand[0] {
	case 'x':
		return nil, nil
	case 'f':
		return nil, errors.New("cannot be merged")
	}
	out := append(base, operand...)
	return out[max(0, len(out)-250):], nil
}

// newWreck returns a store after random writes, splits and joins.
func newWreck(rng *rand.Rand) (x *wreck, err error) {
	fs := vfs.NewMem()
	o := tinyOnDisk(fs)
	o.Merger = wreckMerger
	o.Cache.SegmentBytes, o.Cache.BufferBytes, o.Cache.SnapshotBytes = 8<<10, 1<<10, 6<<10
	x = &wreck{files: map[string][]byte{}, state: crashtest.State{}, stuck: map[string]bool{}, had: map[string]map[string]bool{}, slots: map[PID]snapshot.Slot{}, needed: map[string]bool{}, segment: 8 << 10}
	for range 1 + rng.IntN(3) {
		tr, err := Open(o)
		if err != nil {
			return nil, err
		}
		for range 30 + rng.IntN(170) {
			w := x.someWrites(rng)
			if err = tr.Commit(&w, nil); err != nil {
				break
			}
		}
		if err = errors.Join(err, tr.Close()); err != nil {
			return nil, err
		}
	}
	names, err := fs.ReadDir("store")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		file, err := fs.OpenFile(path.Join("store", name), os.O_RDONLY, 0)
		if err != nil {
			return nil, err
		}
		size, err := file.Size()
		data := make([]byte, size)
		if _, rerr := file.ReadAt(data, 0); size > 0 {
			err = errors.Join(err, rerr)
		}
		if err = errors.Join(err, file.Close()); err != nil {
			return nil, err
		}
		x.files[name] = data
	}
	return x, x.lookAt(fs)
}

// someWrites are one to twelve, or a row of deletions, which leads to joins, and
// some erase a range before.
func (x *wreck) someWrites(rng *rand.Rand) (w Writes) {
	n, at, row := 1, rng.IntN(wreckKeys), false
	switch rng.IntN(8) {
	case 0:
		n = 1 + rng.IntN(12)
	case 1:
		n, row = min(1+rng.IntN(25), wreckKeys-at), true
	}
	if rng.IntN(12) == 0 {
		r := Range{Lo: fmt.Appendf(nil, "%03d", at), Hi: fmt.Appendf(nil, "%03d", at+1+rng.IntN(30))}
		if n = rng.IntN(3); rng.IntN(8) == 0 {
			r.Hi = nil
		}
		w.Erase, row = []Range{r}, false
		for i := range wreckKeys {
			if k := fmt.Sprintf("%03d", i); k >= string(r.Lo) && (r.Hi == nil || k < string(r.Hi)) {
				x.apply(Op{Key: []byte(k), Kind: OpDelete})
			}
		}
	}
	ops := map[string]Op{}
	for i := range n {
		k := fmt.Sprintf("%03d", rng.IntN(wreckKeys))
		if row {
			k = fmt.Sprintf("%03d", at+i)
		}
		ops[k] = someOp(rng, []byte(k), row)
	}
	for _, k := range slices.Sorted(maps.Keys(ops)) {
		w.Ops = append(w.Ops, ops[k])
		x.apply(ops[k])
	}
	return w
}

func someOp(rng *rand.Rand, key []byte, remove bool) Op {
	switch kind := rng.IntN(12); {
	case remove || kind < 2:
		return Op{Key: key, Kind: OpDelete}
	case kind < 6:
		op := Op{Key: key, Kind: OpMerge}
		for range 1 + rng.IntN(2)*rng.IntN(3) {
			mark := '+'
			switch rng.IntN(40) {
			case 0:
				mark = 'f'
			case 1, 2:
				mark = 'x'
			}
			op.Operands = append(op.Operands, fmt.Appendf(nil, "%c%x", mark, rng.Uint32()))
		}
		return op
	}
	size := rng.IntN(50)
	if rng.IntN(10) == 0 {
		size = 150 + rng.IntN(400) // in pages of its own
	}
	return Op{Key: key, Kind: OpSet, Value: value(fmt.Sprintf("%s@%x", key, rng.Uint32()), size)}
}

// apply makes the state what it is behind op.
func (x *wreck) apply(op Op) {
	k := string(op.Key)
	switch op.Kind {
	case OpDelete:
		delete(x.state, k)
		delete(x.stuck, k)
	case OpSet:
		x.state[k] = string(op.Value)
		delete(x.stuck, k)
	case OpMerge:
		var base []byte
		if value, is := x.state[k]; is {
			base = []byte(value)
		}
		value, ok := foldAsMust(base, op.Operands)
		x.stuck[k] = x.stuck[k] || !ok
		if delete(x.state, k); value != nil {
			x.state[k] = string(value)
		}
	}
	if x.had[k] == nil {
		x.had[k] = map[string]bool{}
	}
	if value, is := x.state[k]; is {
		x.had[k][value] = true
	}
}

// foldAsMust puts the operands on base, nil if there is none.
func foldAsMust(base []byte, operands [][]byte) (value []byte, ok bool) {
	for _, x := range operands {
		var err error
		if base, err = wreckMerger(nil, base, x); err != nil {
			return nil, false
		}
	}
	return base, true
}

// lookAt takes in all that the whole store says.
func (x *wreck) lookAt(fs vfs.FS) error {
	l, err := log.OpenSalvager(fs, "store")
	if err != nil {
		return err
	}
	defer l.Close()
	err = l.Scan(func(u log.Salvaged) error {
		read, _, err := l.Read(u.Position, nil)
		base := uint64(u.Position.LSN) / x.segment * x.segment
		u.Payload = bytes.Clone(read.Payload)
		x.updates = append(x.updates, wreckUpdate{u, 0, fmt.Sprintf("%016x.seg", base), int64(uint64(u.Position.LSN) - base)})
		return err
	})
	if err != nil || len(l.Damage()) > 0 {
		return errors.Join(err, fmt.Errorf("%d places are damaged", len(l.Damage())))
	}
	slices.SortFunc(x.updates, func(a, b wreckUpdate) int { return cmp.Compare(a.Position.LSN, b.Position.LSN) })
	for i := 1; i < len(x.updates); i++ {
		u, last := &x.updates[i], &x.updates[i-1]
		u.record = last.record
		if last.Position.LSN+log.LSN(last.Position.Size) != u.Position.LSN {
			u.record++
		}
	}
	var mu sync.Mutex
	h, found, err := snapshot.Load(fs, "store", l.StoreID(), nil, snapshot.Sink{
		Seen:   func(snapshot.Header) {},
		Passed: func(error) {},
		Accept: func(snapshot.Header, []snapshot.File) error { clear(x.slots); return nil },
		Slot: func(_ int, s snapshot.Slot) error {
			mu.Lock()
			defer mu.Unlock()
			x.slots[s.PID] = s
			return nil
		},
	})
	for _, ref := range h.Segments {
		x.needed[fmt.Sprintf("%016x.seg", uint64(ref.Base))] = true
	}
	if err == nil && !found {
		err = errors.New("no page-table snapshot")
	}
	return err
}

// A wreckage is what is left of a wreck.
type wreckage struct {
	*wreck
	files map[string][]byte
	what  string
	left  []bool // by update: all of its bytes are
	done  crashtest.Damage
}

// damage changes bytes of updates, and cuts and takes away files, n times. What the
// page-table snapshot says is left: with it, only those keys may be lost that are.
func (x *wreck) damage(rng *rand.Rand, n int) *wreckage {
	y := &wreckage{wreck: x, files: maps.Clone(x.files), left: make([]bool, len(x.updates))}
	for i := range y.left {
		y.left[i] = true
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
			clear(data[:128])
			y.files[u.file] = data
			from, to = 0, 0
			y.done.Files++
			y.what += fmt.Sprintf("%s without its header; ", u.file)
		default:
			data[at] ^= byte(1 + rng.IntN(255))
			y.files[u.file] = data
			to = at + 1
			y.done.Flipped++
			y.what += fmt.Sprintf("%s changed at %d; ", u.file, at)
		}
		for i, v := range x.updates {
			if v.file == u.file && v.offset < to && v.offset+int64(v.Position.Size) > from {
				y.left[i] = false
			}
		}
	}
	return y
}
