package tree

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/crashtest"
	"github.com/pulkdb/db/internal/invariant"
	"github.com/pulkdb/db/internal/testhooks"
	"github.com/pulkdb/db/log"
	"github.com/pulkdb/db/snapshot"
)

// wreckPage is what is left of a page.
type wreckPage struct {
	all    []wreckUpdate // by version, those that count
	base   *wreckUpdate
	deltas []wreckUpdate
}

// pages returns what is left of each page. Of a group whose last record was hit,
// what its other records have counts if the same incarnation went on from it.
func (y *wreckage) pages(l *wreckLog) map[PID]*wreckPage {
	pages := map[PID]*wreckPage{}
	for i, u := range y.updates {
		if !y.left[i] || !l.countsAt(u.Position.LSN) {
			continue
		}
		u.Partial = l.partial(&u)
		if pages[u.PID] == nil {
			pages[u.PID] = &wreckPage{}
		}
		pages[u.PID].all = append(pages[u.PID].all, u)
	}
	for pid, p := range pages {
		slices.SortStableFunc(p.all, func(a, b wreckUpdate) int { return cmp.Compare(a.Version, b.Version) })
		wentOn := map[uint64]bool{}
		for i, u := range slices.Backward(p.all) {
			if !u.Partial {
				wentOn[u.Incarnation] = true
			} else if !wentOn[u.Incarnation] {
				p.all = slices.Delete(p.all, i, i+1)
			}
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
	newest, slot := p.all[len(p.all)-1], y.slots[pid]
	return newest.Kind == log.KindFree || slot.State == snapshot.Free && slot.Version >= newest.Version
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

// A wreckPile is the newest that is known of a key: operands, and what they lie on.
type wreckPile struct {
	known    bool // something is, if only that it is not there
	absent   bool // there is nothing below the operands
	indirect bool
	value    []byte
	operands [][]byte // oldest first
}

// wreckAbsent is what is known of a key that is deleted.
var wreckAbsent = wreckPile{known: true, absent: true}

// put lays on the pile what an entry or a change says.
func (p *wreckPile) put(flags byte, value []byte) {
	switch {
	case flags&entryTombstone != 0:
		*p = wreckAbsent
	case flags&entryOperand == 0:
		*p = wreckPile{known: true, indirect: flags&entryIndirect != 0, value: value}
	default:
		for len(value) > 0 {
			var x []byte
			x, value, _ = nextOperand(value)
			p.operands = append(p.operands, x)
		}
	}
}

// find returns the newest that is sure of what a leaf says of a key. Where updates
// are missing, the key may have been written, and the leaf have got other fences:
//
//   - an operand counts if nothing is missing since the key was written or erased
//     as a whole;
//   - an erasure up to a fence counts if nothing is missing since the key was
//     within the leaf: since a change of it that is there.
func (l *wreckLeaf) find(key []byte) (p wreckPile) {
	sure, within, at := false, false, ^uint64(0)
	if l.base != nil {
		p, sure, within, at = wreckAbsent, true, true, l.base.Version
		for i := l.node.count() - 1; i >= 0; i-- {
			if bytes.Equal(l.node.appendKey(nil, i), key) {
				e := l.node.entry(i)
				p.put(e.flags, e.value)
			}
		}
	}
	for _, u := range l.deltas {
		if u.Version != at+1 {
			sure, within = false, false
		}
		at = u.Version
		if d := delta(u.Payload); d.isErase() {
			if e, _ := decodeErase(d); e.covers(key) && (within || !e.loOpen && !e.hiOpen) {
				p, sure = wreckAbsent, true
			}
		} else if c, has, _ := d.find(key); has {
			within = true
			if sure = sure || c.flags&entryOperand == 0; sure {
				p.put(c.flags, c.value)
			}
		}
	}
	return p
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
//   - A part of a large value is missing, or the Merger fails: nothing, and the key
//     is reported.
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
	var p wreckPile
	if a.lost = a.pagesForKey != 1 || !best.whole; best != nil {
		p = best.find(key)
	} else {
		for i := range orphans {
			if p = orphans[i].find(key); p.known && (!p.absent || len(p.operands) > 0) {
				break
			}
		}
	}
	if !p.known || p.absent && len(p.operands) == 0 {
		return a
	}
	var base []byte
	ok := true
	switch {
	case p.indirect:
		base, ok = wholeValue(p.value, pages)
	case !p.absent:
		base = append([]byte{}, p.value...)
	}
	if ok {
		base, ok = foldAsMust(base, p.operands)
	}
	a.value, a.has, a.lostValue = string(base), base != nil && ok, !ok
	return a
}

// wholeValue puts a large value together, if all of its parts are left.
func wholeValue(list []byte, pages map[PID]*wreckPage) ([]byte, bool) {
	value := []byte{}
	chunks, _ := readChunks(list)
	for {
		c, more := chunks.next()
		if !more {
			return value, true
		}
		var part []byte
		if p := pages[c.pid]; p != nil {
			for _, u := range p.all {
				if u.Version == c.version && u.Kind != log.KindAppend && u.Kind != log.KindFree {
					part = u.Payload[chunkHeaderBytes:]
				}
			}
		}
		if part == nil {
			return nil, false
		}
		value = append(value, part...)
	}
}

// salvaged is what came out.
type salvaged struct {
	values     crashtest.State
	lost       []LostRange
	lostValues map[string]bool
	anyKey     string // why any key may be lost
}

func (y *wreckage) salvage() (*salvaged, error) {
	fs, err := memOf(y.files)
	if err != nil {
		return nil, err
	}
	out := &salvaged{values: crashtest.State{}, lostValues: map[string]bool{}}
	s, err := OpenSalvage(fs, "store", wreckMerger, SalvageTarget{
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
				out.anyKey = l.Why
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
	l := y.log()
	if out.anyKey != "" && y.harmless() {
		return fmt.Errorf("%snothing is lost, but: %s", y.what, out.anyKey)
	}
	unmissed := out.anyKey != "" || l.unmissed()
	pages := y.pages(l)
	leaves, orphans := y.leaves(pages)
	for i := range wreckKeys {
		key := fmt.Sprintf("%03d", i)
		want := expected([]byte(key), pages, leaves, orphans)
		value, has := out.values[key]
		lost := slices.ContainsFunc(out.lost, func(l LostRange) bool {
			return bytes.Compare(l.Lo, []byte(key)) <= 0 && (l.Hi == nil || bytes.Compare([]byte(key), l.Hi) < 0)
		})
		switch truth, is := y.state[key]; {
		case has && !y.had[key][value]:
			return fmt.Errorf("%s%q is %.40q, which it never was", y.what, key, value)
		case l.dropped:
		case value != want.value || has != want.has:
			return fmt.Errorf("%s%q is %.40q (%v), and %.40q (%v) is left", y.what, key, value, has, want.value, want.has)
		case lost != want.lost || out.lostValues[key] != want.lostValue:
			return fmt.Errorf("%s%q is reported as lost: in a range %v, itself %v; and must be: %+v", y.what, key, lost, out.lostValues[key], want)
		case !unmissed && !lost && !want.lostValue && (value != truth || has != is || y.stuck[key]):
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
				if out.anyKey != "" {
					n.anyKey++
				}
				if out.anyKey != "" || len(out.lost)+len(out.lostValues) > 0 {
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
		{"fold operands twice", &testhooks.SalvageFoldTwice},
		{"fold operands onto what is left behind a gap", &testhooks.SalvageFoldAnyBase},
		{"forget erased ranges", &testhooks.SalvageForgetErased},
		{"trust what a crash has torn", &testhooks.SalvageTrustTorn},
		{"report what a crash has torn", &testhooks.SalvageReportTorn},
		{"trust what a recovery has cut off", &testhooks.SalvageTrustCutOff},
	} {
		crashtest.Planted(t, "salvage: "+x.name, x.broken, func(seed int64) (crashtest.Result, error) {
			stores, ways := 4, 15
			if x.broken == &testhooks.SalvageTrustTorn || x.broken == &testhooks.SalvageReportTorn {
				stores, ways = 20, 2 // it shows while they are whole, if something is torn
			}
			n, err := salvageWrecks(seed, stores, ways, x.broken)
			return crashtest.Result{Looks: n.salvages}, err
		})
	}
}
