package tree

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pulkdb/db/pagecache"
)

// testMerger appends the operand to the value, but for operands that begin with a
// letter that says otherwise. It keeps and spoils its arguments, as it may.
func testMerger(failing *bool) Merger {
	return func(key, base, operand []byte) ([]byte, error) {
		kind := byte('+')
		if len(operand) > 0 {
			kind = operand[0]
		}
		switch {
		case kind == 'f' && *failing:
			return nil, errors.New("refused")
		case kind == 'p' && *failing:
			panic("refused")
		case kind == 'n':
			return nil, nil
		case kind == 'e':
			return []byte{}, nil
		case kind == 'l':
			return []byte(strings.Repeat("long", 200)), nil
		}
		out := append(append(base, '|'), operand...)
		result := slices.Clone(out)
		clear(out)
		clear(key)
		clear(operand)
		return result, nil
	}
}

// An event is a write to one key, as the oracle keeps it.
type event struct {
	stamp uint64
	kind  byte // 's'et, 'd'elete, 'm'erge
	value string
}

// oracle is the history of every key, oldest event first.
type oracle struct {
	events  map[string][]event
	failing *bool
}

// at says what a reader at the moment reads: the value, or absence, or an error.
func (o *oracle) at(key string, moment uint64) (value string, ok bool, err error) {
	var base []byte
	f := folder{merger: testMerger(o.failing)}
	for _, e := range o.events[key] {
		switch {
		case e.stamp > moment:
			continue
		case e.kind == 's':
			base, err = append([]byte{}, e.value...), nil
		case e.kind == 'd':
			base, err = nil, nil
		case err == nil:
			base, _, err = f.fold([]byte(key), base, appendOperand(nil, []byte(e.value)))
		}
	}
	if err != nil {
		return "", false, err
	}
	return string(base), base != nil, nil
}

func (o *oracle) add(key string, e event) { o.events[key] = append(o.events[key], e) }

// nodeModel is a leaf beside the history of its keys.
type nodeModel struct {
	oracle
	n     node
	open  []uint64
	clock uint64
	lists map[string]string // chunk lists, and the values they stand for
	gone  map[string]bool   // those that have been freed
}

var modelKeys = []string{"", "a", "aa", "b", "pppppppp1", "pppppppp2", "pppppppp22", "pppppppp3", "q", "r"}

// drawDelta draws a delta and adds it to the history.
func (m *nodeModel) drawDelta(t *rapid.T) pagecache.Fragment {
	f := pagecache.Fragment{Stamp: m.clock}
	if rapid.IntRange(0, 4).Draw(t, "erase") == 0 {
		f.Data = m.drawErase(t)
		return f
	}
	keys := rapid.SliceOfNDistinct(rapid.SampledFrom(modelKeys), 1, 6, rapid.ID[string]).Draw(t, "keys")
	slices.Sort(keys)
	var changes []change
	for _, k := range keys {
		c := change{key: []byte(k)}
		switch rapid.IntRange(0, 9).Draw(t, "kind") {
		case 0, 1:
			c.flags = entryTombstone
			m.add(k, event{m.clock, 'd', ""})
		case 2, 3:
			v := rapid.StringN(0, 20, -1).Draw(t, "value")
			c.value = []byte(v)
			m.add(k, event{m.clock, 's', v})
		case 4:
			c.flags = entryIndirect
			c.value = appendChunks(nil, len(m.lists)+1000, 1<<20, []chunk{{PID(len(m.lists) + 7), 3}})
			v := fmt.Sprint("chunked", len(m.lists))
			m.lists[string(c.value)] = v
			m.add(k, event{m.clock, 's', v})
		default:
			c.flags = entryOperand
			for range rapid.IntRange(1, 3).Draw(t, "operands") {
				x := rapid.SampledFrom([]string{"", "1", "2", "3", "4", "f", "p", "n", "e", "l"}).Draw(t, "operand")
				c.value = appendOperand(c.value, []byte(x))
				m.add(k, event{m.clock, 'm', x})
			}
		}
		changes = append(changes, c)
	}
	f.Data = appendChanges(nil, kindLeafOne, changes)
	return f
}

func (m *nodeModel) drawErase(t *rapid.T) []byte {
	lo, hi := rapid.SampledFrom(modelKeys).Draw(t, "lo"), rapid.SampledFrom(modelKeys).Draw(t, "hi")
	loOpen, hiOpen := rapid.IntRange(0, 3).Draw(t, "loOpen") == 0, rapid.IntRange(0, 3).Draw(t, "hiOpen") == 0
	if lo > hi {
		lo, hi = hi, lo
	}
	if lo == hi {
		hi += "\x00"
	}
	for _, k := range modelKeys {
		if (loOpen || k >= lo) && (hiOpen || k < hi) {
			m.add(k, event{m.clock, 'd', ""})
		}
	}
	data := appendErase(nil, []byte(lo), []byte(hi), loOpen, hiOpen)
	require.NoError(t, delta(data).validate())
	return data
}

// read folds what a node without stamps says of key.
func (m *nodeModel) read(t *rapid.T, n node, key string) (value string, ok bool, err error) {
	i, equal := n.search([]byte(key))
	if !equal {
		return "", false, nil
	}
	var base, list []byte
	for k := n.group(i) - 1; k >= i; k-- {
		e := n.entry(k)
		switch {
		case e.flags&entryOperand != 0:
			list = append(list, e.value...)
		case e.flags&entryIndirect != 0:
			v, known := m.lists[string(e.value)]
			require.True(t, known && !m.gone[string(e.value)], "%q has a list that is freed", key)
			base = []byte(v)
		default:
			require.Zero(t, e.flags&entryTombstone)
			base = append([]byte{}, e.value...)
		}
	}
	base, _, err = folder{merger: testMerger(m.failing)}.fold([]byte(key), base, list)
	if err != nil {
		return "", false, err
	}
	return string(base), base != nil, nil
}

func (m *nodeModel) check(t *rapid.T, moments []uint64) {
	require.NoError(t, m.n.validate(), "%v", m.n)
	for _, moment := range moments {
		seen := node(m.merge(t, nil, rule{visible: true, at: moment}))
		require.NoError(t, seen.validate())
		for _, key := range modelKeys {
			want, ok, wantErr := m.at(key, moment)
			got, found, err := m.read(t, seen, key)
			if wantErr != nil && err == nil {
				// Folded while the merger did not fail.
				*m.failing = false
				want, ok, wantErr = m.at(key, moment)
				*m.failing = true
			}
			require.Equal(t, wantErr == nil, err == nil, "%q at %d: %v, %v in %v", key, moment, wantErr, err, m.n)
			require.Equal(t, ok, found, "%q at %d in %v: %v", key, moment, m.n, m.events[key])
			require.Equal(t, want, got, "%q at %d in %v", key, moment, m.n)
		}
	}
}

func (m *nodeModel) merge(t *rapid.T, deltas []pagecache.Fragment, r rule) []byte {
	mg := newMerger()
	defer mg.release()
	out, err := mg.merge(nil, m.n, deltas, r)
	require.NoError(t, err)
	return out
}

// named returns the chunk lists that the node has.
func (m *nodeModel) named() map[string]bool {
	lists := map[string]bool{}
	for i := range m.n.count() {
		if e := m.n.entry(i); e.flags&entryIndirect != 0 {
			lists[string(e.value)] = true
		}
	}
	return lists
}

// Merges of changes, erasures and operands under open moments, with a merger that
// fails for a while, read as their history says at every moment (T4).
func TestVersionsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		failing := true
		m := &nodeModel{oracle: oracle{map[string][]event{}, &failing}, n: emptyLeaf(), clock: 2,
			lists: map[string]string{}, gone: map[string]bool{}}
		fold := folder{merger: testMerger(&failing), bytesMax: 64}
		for range rapid.IntRange(1, 8).Draw(t, "rounds") {
			var deltas []pagecache.Fragment
			for range rapid.IntRange(0, 5).Draw(t, "deltas") {
				if rapid.Bool().Draw(t, "open") {
					m.open = append(m.open, m.clock)
					m.clock++
				}
				deltas = append(deltas, m.drawDelta(t))
			}
			for len(m.open) > 0 && rapid.Bool().Draw(t, "close") {
				i := rapid.IntRange(0, len(m.open)-1).Draw(t, "which")
				m.open = slices.Delete(m.open, i, i+1)
			}
			failing = rapid.Bool().Draw(t, "failing")
			moments := append(slices.Clone(m.open), m.clock)
			base := m.n
			// As an iterator's copy of the chain.
			for _, moment := range moments {
				m.n = node(m.merge(t, deltas[:visibleAt(deltas, moment)], rule{visible: true, at: moment}))
				m.check(t, []uint64{moment})
				m.n = base
			}
			r := rule{moments: slices.Clone(m.open), keepAll: rapid.IntRange(0, 4).Draw(t, "keepAll") == 0}
			if rapid.Bool().Draw(t, "fold") {
				r.fold = fold
			}
			if rapid.IntRange(0, 3).Draw(t, "split") == 0 {
				r.keepIndirect = true
			} else {
				r.free = func(list []byte) {
					require.False(t, m.gone[string(list)], "freed twice")
					m.gone[string(list)] = true
				}
			}
			m.n = m.merge(t, deltas, r)
			m.check(t, moments)
			if !r.keepIndirect {
				named := m.named()
				for list := range m.lists {
					require.True(t, named[list] != m.gone[list], "%q is neither freed nor kept, or both", m.lists[list])
				}
			}
			failing = false
			m.check(t, moments) // nothing is lost
		}
		m.n = m.merge(t, nil, rule{fold: folder{merger: fold.merger}})
		m.check(t, []uint64{m.clock})
		for i := range m.n.count() {
			if f := m.n.entryFlags(i); f&^entryIndirect != 0 && f&entryIndirect == 0 {
				below := i+1 < m.n.count() && m.n.entryFlags(i+1)&entryIndirect != 0
				require.True(t, below, "entry %d is not folded in %v", i, m.n)
			}
		}
	})
}

// visibleAt is how many of the deltas a reader at the moment sees.
func visibleAt(deltas []pagecache.Fragment, moment uint64) int {
	n := 0
	for n < len(deltas) && deltas[n].Stamp <= moment {
		n++
	}
	return n
}
