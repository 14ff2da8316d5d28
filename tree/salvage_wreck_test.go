package tree

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/pulkdb/db/internal/crashtest"
	"github.com/pulkdb/db/internal/vfs"
	"github.com/pulkdb/db/log"
	"github.com/pulkdb/db/snapshot"
)

// A wreck is a store that was closed, or whose process or machine died, and all that
// is known of it while it is whole: each record and update in its log, byte by byte,
// and each page as the page-table snapshot has it. From that follows what a Salvage
// of it must bring out and report, key by key, once some bytes are others: see
// expected.
type wreck struct {
	files    map[string][]byte
	state    crashtest.State
	stuck    map[string]bool            // keys with an operand on which the Merger fails
	had      map[string]map[string]bool // all values of each key
	updates  []wreckUpdate              // by LSN
	segments []wreckSegment
	slots    map[PID]snapshot.Slot
	proven   bool             // there is a page-table snapshot
	needed   map[string]bool  // segments, by it
	listed   map[log.LSN]bool // updates that it names
	durable  log.Marks        // as all of those say
	replay   log.Marks        // by the newest
	segment  uint64           // bytes
}

type wreckUpdate struct {
	log.Salvaged              // with its payload
	record       *wreckRecord // that it is in; nil: one that cannot be read
	file         string       // where
	offset       int64
	counted      bool // while the store was whole
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

// newWreck returns a store after random writes, splits and joins. Each time it was
// opened it was closed, or killed, or the machine lost power.
func newWreck(rng *rand.Rand) (x *wreck, err error) {
	mem := vfs.NewMem()
	x = &wreck{state: crashtest.State{}, stuck: map[string]bool{}, had: map[string]map[string]bool{}, slots: map[PID]snapshot.Slot{}, needed: map[string]bool{}, listed: map[log.LSN]bool{}, segment: 8 << 10}
	for i := range 1 + rng.IntN(3) {
		if mem, err = x.write(rng, mem, i == 0); err != nil {
			return nil, err
		}
	}
	if x.files, err = filesOf(mem); err != nil {
		return nil, err
	}
	if mem, err = memOf(x.files); err != nil {
		return nil, err
	}
	return x, x.lookAt(mem)
}

func (x *wreck) options(fs vfs.FS) Options {
	o := tinyOnDisk(fs)
	o.Merger = wreckMerger
	o.Cache.SegmentBytes, o.Cache.BufferBytes, o.Cache.SnapshotBytes = int(x.segment), 1<<10, 6<<10
	return o
}

// write opens the store and writes to it. It returns the file system as it is found
// after that: all was closed, or it ended at some file operation, in the recovery if
// the store is not new.
func (x *wreck) write(rng *rand.Rand, mem *vfs.Mem, isNew bool) (*vfs.Mem, error) {
	var last, now atomic.Int64 // operations that change something, or syncs: before them most can be torn
	last.Store(math.MaxInt64)
	end, how, syncs := rng.Int64N(wreckOps), rng.IntN(5), rng.IntN(2) == 0
	if syncs {
		end = rng.Int64N(wreckSyncs)
	}
	often := []int{20, 1 << 20}[rng.IntN(2)]
	if how >= 2 && !isNew {
		last.Store(end)
	}
	tr, err := Open(x.options(vfs.NewFault(mem, func(op vfs.Op) error {
		if op.Changes() && (!syncs || op.Kind == vfs.OpSync) {
			now.Add(1)
		}
		if op.Changes() && now.Load() > last.Load() {
			return vfs.ErrDead
		}
		return nil
	})))
	if how >= 2 && isNew {
		last.Store(now.Load() + end)
	}
	for n := 30 + rng.IntN(170); n > 0 && err == nil; n-- {
		w := x.someWrites(rng)
		if err = tr.Commit(&w, nil); err == nil && rng.IntN(often) == 0 {
			err = tr.Sync()
		}
	}
	if how < 2 && err == nil {
		return mem, tr.Close()
	}
	if how < 2 || err != nil && !errors.Is(err, vfs.ErrDead) {
		return nil, err
	}
	last.Store(-1)
	if tr != nil {
		_ = tr.Close()
	}
	mem.Kill()
	if how == 2 {
		return mem, x.recover(mem)
	}
	clone := mem.CrashClone(0)
	for range rng.IntN(4) {
		// One in which something can be read behind the torn end, if there is any.
		clone = mem.CrashClone(rng.Int64())
		files, err := filesOf(clone)
		if err != nil {
			return nil, err
		}
		look := wreck{files: files, segment: x.segment}
		look.readSegments()
		if l := look.whole().log(); l.torn != [2]log.LSN{} {
			break
		}
	}
	return clone, x.recover(clone)
}

// More file operations, and syncs, than most openings need.
const (
	wreckOps   = 120
	wreckSyncs = 20
)

// recover takes for the state what a recovery of the store shows.
func (x *wreck) recover(mem *vfs.Mem) error {
	files, err := filesOf(mem)
	if err != nil {
		return err
	}
	if mem, err = memOf(files); err != nil {
		return err
	}
	tr, err := Open(x.options(mem))
	if err != nil {
		return err
	}
	clear(x.state)
	clear(x.stuck)
	for i := range wreckKeys {
		key := fmt.Sprintf("%03d", i)
		value, err := tr.GetTo(nil, []byte(key))
		switch {
		case err == nil:
			x.state[key] = string(value)
		case isMergeFailure(err):
			x.stuck[key] = true
		case !errors.Is(err, ErrNotFound):
			return errors.Join(err, tr.Close())
		}
	}
	return tr.Close()
}

// filesOf returns what the system shows of the store.
func filesOf(fs vfs.FS) (map[string][]byte, error) {
	files := map[string][]byte{}
	names, err := fs.ReadDir("store")
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
		files[name] = data
	}
	return files, err
}

// memOf returns a file system with the store.
func memOf(files map[string][]byte) (*vfs.Mem, error) {
	fs := vfs.NewMem()
	if err := fs.MkdirAll("store"); err != nil {
		return nil, err
	}
	for name, data := range files {
		file, err := fs.OpenFile(path.Join("store", name), os.O_RDWR|os.O_CREATE, 0o666)
		if err != nil {
			return nil, err
		}
		_, err = file.WriteAt(data, 0)
		if err = errors.Join(err, file.Close()); err != nil {
			return nil, err
		}
	}
	return fs, nil
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

// lookAt takes in all that the store says while it is whole.
func (x *wreck) lookAt(fs vfs.FS) error {
	x.readSegments()
	l, err := log.OpenSalvager(fs, "store")
	if err != nil {
		return err
	}
	defer l.Close()
	err = l.Scan(func(u log.Salvaged) error {
		read, _, err := l.Read(u.Position, nil)
		s := x.segmentOf(u.Position.LSN)
		if s == nil {
			return fmt.Errorf("an update at %v, where no segment is", u.Position.LSN)
		}
		u.Payload = bytes.Clone(read.Payload)
		w := wreckUpdate{Salvaged: u, file: s.file, offset: int64(u.Position.LSN - s.base)}
		for i := range s.records {
			if r := &s.records[i]; r.lsn <= u.Position.LSN && u.Position.LSN < r.end() {
				w.record = r
			}
		}
		x.updates = append(x.updates, w)
		return err
	})
	if err != nil {
		return err
	}
	slices.SortFunc(x.updates, func(a, b wreckUpdate) int { return cmp.Compare(a.Position.LSN, b.Position.LSN) })
	var mu sync.Mutex
	h, found, err := snapshot.Load(fs, "store", l.StoreID(), nil, snapshot.Sink{
		Seen: func(h snapshot.Header) {
			for i := range x.durable {
				x.durable[i] = max(x.durable[i], h.DurableMark[i])
			}
		},
		Passed: func(error) {},
		Accept: func(snapshot.Header, []snapshot.File) error { clear(x.slots); return nil },
		Slot: func(_ int, s snapshot.Slot) error {
			mu.Lock()
			defer mu.Unlock()
			s.Positions = slices.Clone(s.Positions)
			x.slots[s.PID] = s
			return nil
		},
	})
	for _, ref := range h.Segments {
		x.needed[fmt.Sprintf("%016x.seg", uint64(ref.Base))] = true
	}
	x.proven, x.replay = found, h.ReplayStart
	for _, s := range x.slots {
		for _, at := range s.Positions {
			x.listed[at.LSN] = true
		}
	}
	whole := x.whole().log()
	for i := range x.updates {
		x.updates[i].counted = whole.countsAt(x.updates[i].Position.LSN)
	}
	return err
}
