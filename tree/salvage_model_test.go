package tree

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/crashtest"
	"github.com/pulkdb/db/internal/invariant"
	"github.com/pulkdb/db/internal/testhooks"
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
	updates []wreckUpdate // by LSN
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

// newWreck returns a store after random writes, splits and joins.
func newWreck(rng *rand.Rand) (x *wreck, err error) {
	fs := vfs.NewMem()
	o := tinyOnDisk(fs)
	o.Cache.SegmentBytes, o.Cache.BufferBytes, o.Cache.SnapshotBytes = 8<<10, 1<<10, 6<<10
	x = &wreck{files: map[string][]byte{}, state: crashtest.State{}, slots: map[PID]snapshot.Slot{}, needed: map[string]bool{}, segment: 8 << 10}
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

// someWrites are one to twelve, or a row of deletions, which leads to joins.
func (x *wreck) someWrites(rng *rand.Rand) (w Writes) {
	n, at, row := 1, rng.IntN(wreckKeys), false
	switch rng.IntN(8) {
	case 0:
		n = 1 + rng.IntN(12)
	case 1:
		n, row = min(1+rng.IntN(25), wreckKeys-at), true
	}
	ops := map[string]Op{}
	for i := range n {
		k := fmt.Sprintf("%03d", rng.IntN(wreckKeys))
		if row {
			k = fmt.Sprintf("%03d", at+i)
		}
		if row || rng.IntN(6) == 0 {
			ops[k] = Op{Key: []byte(k), Kind: OpDelete}
			continue
		}
		size := rng.IntN(50)
		if rng.IntN(10) == 0 {
			size = 150 + rng.IntN(400) // in pages of its own
		}
		ops[k] = Op{Key: []byte(k), Kind: OpSet, Value: value(fmt.Sprintf("%s@%x", k, rng.Uint32()), size)}
	}
	for _, k := range slices.Sorted(maps.Keys(ops)) {
		op := ops[k]
		w.Ops = append(w.Ops, op)
		if op.Kind == OpDelete {
			delete(x.state, k)
		} else {
			x.state[k] = string(op.Value)
		}
	}
	return w
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

// wreckPage is what is left of a page.
type wreckPage struct {
	all    []wreckUpdate // by version, those that count
	base   *wreckUpdate
	deltas []wreckUpdate
}

// pages returns what is left of each page. Of a group whose last record was hit,
// what its other records have does not count if it is the newest of its page.
func (y *wreckage) pages() map[PID]*wreckPage {
	hit, last := map[int]bool{}, map[log.LSN]int{} // records; the last of each group
	for i, u := range y.updates {
		if !y.left[i] {
			hit[u.record] = true
		}
		if u.Last != 0 && u.Position.LSN > u.Last {
			if _, known := last[u.Last]; !known {
				last[u.Last] = u.record
			}
		}
	}
	pages := map[PID]*wreckPage{}
	for i, u := range y.updates {
		if !y.left[i] {
			continue
		}
		u.Partial = u.Last != 0 && hit[last[u.Last]] && !hit[u.record]
		if pages[u.PID] == nil {
			pages[u.PID] = &wreckPage{}
		}
		pages[u.PID].all = append(pages[u.PID].all, u)
	}
	for pid, p := range pages {
		slices.SortStableFunc(p.all, func(a, b wreckUpdate) int { return cmp.Compare(a.Version, b.Version) })
		for n := len(p.all); n > 0 && p.all[n-1].Partial; n-- {
			p.all = p.all[:n-1]
		}
		if len(p.all) == 0 {
			delete(pages, pid)
			continue
		}
		from := uint64(0) // the version of what deltas lie on
		for i, u := range p.all {
			switch u.Kind {
			case log.KindFree:
				p.base, from = nil, u.Version
			case log.KindAllocate, log.KindReplace, log.KindConsolidate:
				p.base, from = &p.all[i], u.Version
			}
		}
		for _, u := range p.all {
			if u.Kind == log.KindAppend && u.Version > from {
				p.deltas = append(p.deltas, u)
			}
		}
	}
	return pages
}

// isFree reports whether the page is not in use.
func (y *wreckage) isFree(pid PID, p *wreckPage) bool {
	return y.slots[pid].State == snapshot.Free || p.all[len(p.all)-1].Kind == log.KindFree
}

// wreckLeaf is a leaf that has a base.
type wreckLeaf struct {
	*wreckPage
	node  node
	pid   PID
	stamp uint64
	lsn   log.LSN
	whole bool
}

func (y *wreckage) leaves(pages map[PID]*wreckPage) (leaves []wreckLeaf, orphans []wreckLeaf) {
	for pid, p := range pages {
		if y.isFree(pid, p) {
			continue
		}
		newest := p.all[len(p.all)-1]
		l := wreckLeaf{wreckPage: p, pid: pid, lsn: newest.Position.LSN, whole: newest.Version >= y.slots[pid].Version}
		at, parts := uint64(0), p.deltas
		if p.base != nil {
			parts = append([]wreckUpdate{*p.base}, p.deltas...)
		}
		for i, u := range parts {
			l.stamp, l.lsn = max(l.stamp, u.Stamp), max(l.lsn, u.Position.LSN)
			l.whole = l.whole && (i == 0 || u.Version == at+1)
			at = u.Version
		}
		if p.base == nil {
			if len(p.deltas) > 0 && !delta(p.deltas[0].Payload).isInner() {
				orphans = append(orphans, l)
			}
			continue
		}
		if l.node = node(p.base.Payload); isNode(l.node) && l.node.isLeaf() && l.node.tree() == 0 {
			l.stamp = max(l.stamp, l.node.newest())
			for _, u := range p.deltas {
				for i, d := 0, delta(u.Payload); i < d.count(); i++ {
					c, _ := d.at(i)
					l.whole = l.whole && l.node.contains(c.key)
				}
			}
			leaves = append(leaves, l)
		}
	}
	slices.SortFunc(orphans, func(a, b wreckLeaf) int { return cmp.Compare(b.lsn, a.lsn) })
	return leaves, orphans
}

// find returns the newest that a leaf says of a key.
func (l *wreckLeaf) find(key []byte) (flags byte, value []byte, found bool) {
	for _, u := range slices.Backward(l.deltas) {
		if c, ok, _ := delta(u.Payload).find(key); ok {
			return c.flags, c.value, true
		}
	}
	if l.base == nil {
		return 0, nil, false
	}
	for i := range l.node.count() {
		if bytes.Equal(l.node.appendKey(nil, i), key) {
			e := l.node.entry(i)
			return e.flags, e.value, true
		}
	}
	return 0, nil, false
}

// A wreckAnswer is what must come out of a key.
type wreckAnswer struct {
	value       string
	has         bool
	lost        bool // a range that it is in is reported
	lostValue   bool // it is reported itself
	pagesForKey int
}

// expected says of a key what a Salvage must bring out and report.
//
//   - One page in use is for it, and nothing of it is missing: its newest value.
//   - Several are: what the one with the newest stamp says, and it is reported.
//   - Something of the page is missing: the newest value that is there, reported.
//   - No page that is left is for it: the newest of what deltas without a base say,
//     reported.
//   - A part of a large value is missing: nothing, and the key is reported.
func expected(key []byte, pages map[PID]*wreckPage, leaves, orphans []wreckLeaf) (a wreckAnswer) {
	var best *wreckLeaf
	for i := range leaves {
		l := &leaves[i]
		if !l.node.contains(key) {
			continue
		}
		a.pagesForKey++
		if best == nil || cmp.Or(cmp.Compare(l.stamp, best.stamp), cmp.Compare(l.lsn, best.lsn), cmp.Compare(l.pid, best.pid)) > 0 {
			best = l
		}
	}
	var flags byte
	var value []byte
	var found bool
	if a.lost = a.pagesForKey != 1 || !best.whole; best != nil {
		flags, value, found = best.find(key)
	} else {
		for i := range orphans {
			if flags, value, found = orphans[i].find(key); found && flags&entryTombstone == 0 {
				break
			}
		}
	}
	if !found || flags&entryTombstone != 0 {
		return a
	}
	if flags&entryIndirect == 0 {
		a.value, a.has = string(value), true
		return a
	}
	chunks, _ := readChunks(value)
	for {
		c, more := chunks.next()
		if !more {
			a.has = true
			return a
		}
		part := ""
		if p := pages[c.pid]; p != nil {
			for _, u := range p.all {
				if u.Version == c.version && u.Kind != log.KindAppend && u.Kind != log.KindFree {
					part = string(u.Payload[chunkHeaderBytes:])
				}
			}
		}
		if part == "" {
			return wreckAnswer{lost: a.lost, lostValue: true, pagesForKey: a.pagesForKey}
		}
		a.value += part
	}
}

// salvaged is what came out.
type salvaged struct {
	values     crashtest.State
	lost       []LostRange
	lostValues map[string]bool
	anyKey     bool // any key may be lost
}

func (y *wreckage) salvage() (*salvaged, error) {
	fs := vfs.NewMem()
	if err := fs.MkdirAll("store"); err != nil {
		return nil, err
	}
	for name, data := range y.files {
		file, err := fs.OpenFile(path.Join("store", name), os.O_RDWR|os.O_CREATE, 0o666)
		if err == nil {
			_, err = file.WriteAt(data, 0)
		}
		if err = errors.Join(err, file.Close()); err != nil {
			return nil, err
		}
	}
	out := &salvaged{values: crashtest.State{}, lostValues: map[string]bool{}}
	s, err := OpenSalvage(fs, "store", nil, SalvageTarget{
		Set: func(key, value []byte) error {
			if _, twice := out.values[string(key)]; twice {
				return fmt.Errorf("%q came out twice", key)
			}
			out.values[string(key)] = string(value)
			return nil
		},
		SetFrom: func(key []byte, r io.Reader, _ int64) error {
			value, err := io.ReadAll(r)
			if err == nil {
				out.values[string(key)] = string(value)
			}
			return err
		},
		Lost: func(l LostRange) {
			if strings.HasPrefix(l.Why, "updates that could not be read") {
				out.anyKey = true
				return
			}
			out.lost = append(out.lost, l)
		},
		LostValue: func(key []byte, _ error) { out.lostValues[string(key)] = true },
	})
	if err != nil {
		return nil, err
	}
	return out, errors.Join(s.Run(context.Background()), s.Close())
}

// compare says where out is not what must come out.
func (y *wreckage) compare(out *salvaged) error {
	pages := y.pages()
	leaves, orphans := y.leaves(pages)
	for i := range wreckKeys {
		key := fmt.Sprintf("%03d", i)
		want := expected([]byte(key), pages, leaves, orphans)
		value, has := out.values[key]
		lost := slices.ContainsFunc(out.lost, func(l LostRange) bool {
			return bytes.Compare(l.Lo, []byte(key)) <= 0 && (l.Hi == nil || bytes.Compare([]byte(key), l.Hi) < 0)
		})
		switch truth, is := y.state[key]; {
		case value != want.value || has != want.has:
			return fmt.Errorf("%s%q is %.40q (%v), and %.40q (%v) is left", y.what, key, value, has, want.value, want.has)
		case lost != want.lost || out.lostValues[key] != want.lostValue:
			return fmt.Errorf("%s%q is reported as lost: in a range %v, itself %v; and must be: %+v", y.what, key, lost, out.lostValues[key], want)
		case !lost && !want.lostValue && (value != truth || has != is):
			return fmt.Errorf("%s%q is %.40q (%v), was %.40q (%v), and nothing is reported", y.what, key, value, has, truth, is)
		}
		delete(out.values, key)
	}
	if len(out.values) > 0 {
		return fmt.Errorf("%s%d keys came out that never were", y.what, len(out.values))
	}
	return nil
}

// A wreckTally counts.
type wreckTally struct {
	stores, salvages, updates, keys, lost, anyKey int
	done                                          crashtest.Damage
}

// salvageWrecks damages stores, each in as many ways, and compares what comes out
// of each key and what is reported of it with what must be. broken is on while it
// salvages.
func salvageWrecks(seed int64, stores, ways int, broken *testhooks.Switch) (n wreckTally, err error) {
	rng := rand.New(rand.NewPCG(uint64(seed), 4))
	set := func(on bool) {
		if broken != nil {
			broken.Set(on)
		}
	}
	for range stores {
		set(false)
		x, err := newWreck(rng)
		if err != nil {
			return n, err
		}
		n.stores++
		for way := range ways {
			y := x.damage(rng, min(way, 1+rng.IntN(5))) // the first: none
			set(true)
			out, err := y.salvage()
			set(false)
			n.salvages++
			n.done = n.done.Plus(y.done)
			if err == nil {
				n.keys += len(out.values)
				n.lost += len(out.lost) + len(out.lostValues)
				if out.anyKey {
					n.anyKey++
				}
				if out.anyKey || len(out.lost)+len(out.lostValues) > 0 {
					n.done.Answers[1]++
				} else {
					n.done.Answers[2]++
				}
				err = y.compare(out)
			}
			if err != nil {
				return n, err
			}
			for _, left := range y.left {
				if !left {
					n.updates++
				}
			}
		}
	}
	return n, nil
}

// TestSalvageModel: what comes out of each key is the newest value that is left of
// it, and it is reported if that may not be its last; no other key is. Which value
// that is, and which keys those are, follows from the bytes that were changed.
func TestSalvageModel(t *testing.T) {
	stores := 12
	if invariant.Debug {
		stores = 2
	}
	if os.Getenv("PULK_DAMAGE") != "" {
		stores = 400
	}
	n, err := salvageWrecks(crashtest.Seed(t), stores, 60, nil)
	require.NoError(t, err)
	t.Logf("%d stores, %d salvages, %d updates lost: %d keys as they must be, %d ranges and values reported, %d times any key",
		n.stores, n.salvages, n.updates, n.keys, n.lost, n.anyKey)
	crashtest.ReportDamage(t, "salvage-exact", n.done)
	require.NotZero(t, n.lost)
	require.Less(t, n.anyKey, n.salvages/2)
}

// TestPlantedBugs: the model of Salvage finds what is wrong on purpose.
func TestPlantedBugs(t *testing.T) {
	for _, x := range []struct {
		name   string
		broken *testhooks.Switch
	}{
		{"skip a segment", &testhooks.SalvageSkipSegment},
		{"take an older version of a page", &testhooks.SalvageOlderVersion},
		{"drop the right half of a split", &testhooks.SalvageDropRightHalf},
		{"accept a torn update", &testhooks.AcceptTornUpdate},
		{"lose large values", &testhooks.SalvageLoseLarge},
		{"report nothing lost", &testhooks.SalvageReportNothing},
		{"miss every second update of a damaged record", &testhooks.SalvageMissSecond},
	} {
		crashtest.Planted(t, "salvage: "+x.name, x.broken, func(seed int64) (crashtest.Result, error) {
			n, err := salvageWrecks(seed, 1, 60, x.broken)
			return crashtest.Result{Looks: n.salvages}, err
		})
	}
}
