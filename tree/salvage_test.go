package tree

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/pagecache"
)

// Of leaves that are for one key the one with the newest stamp is taken, of those the
// one that stands last in the log; what two are for, and what none is for, is reported.
func TestSalvageTilesTheKeySpace(t *testing.T) {
	leaf := func(pid PID, lo, hi string, stamp uint64, lsn pagecache.LSN) salvagedLeaf {
		l := salvagedLeaf{lo: []byte(lo), hi: []byte(hi), stamp: stamp}
		if hi == "" {
			l.hi = nil
		}
		l.PID, l.LSN = pid, lsn
		return l
	}
	for _, x := range []struct {
		name         string
		leaves       []salvagedLeaf
		pieces, lost []string
	}{
		{
			"a split of which the left page is old",
			[]salvagedLeaf{leaf(1, "", "", 5, 100), leaf(2, "m", "", 7, 50)},
			[]string{"1: -m", "2: m-"}, []string{"m-"},
		},
		{
			"a join of which the right page is old",
			[]salvagedLeaf{leaf(1, "", "", 7, 50), leaf(2, "m", "", 5, 100)},
			[]string{"1: -"}, []string{"m-"},
		},
		{
			"one stamp",
			[]salvagedLeaf{leaf(1, "", "p", 5, 100), leaf(2, "g", "", 5, 200)},
			[]string{"1: -g", "2: g-"}, []string{"g-p"},
		},
		{
			"an old one in the midst of a new one, and a hole",
			[]salvagedLeaf{leaf(1, "c", "x", 9, 1), leaf(2, "g", "k", 3, 2)},
			[]string{"1: c-x"}, []string{"-c", "g-k", "x-"},
		},
		{"none", nil, nil, []string{"-"}},
	} {
		var lost []string
		s := &Salvage{leaves: x.leaves, target: SalvageTarget{Lost: func(r LostRange) {
			lost = append(lost, fmt.Sprintf("%s-%s", r.Lo, r.Hi))
		}}}
		var pieces []string
		for _, p := range s.tile() {
			pieces = append(pieces, fmt.Sprintf("%d: %s-%s", p.leaf.PID, p.lo, p.hi))
		}
		require.Equal(t, x.pieces, pieces, x.name)
		require.Equal(t, x.lost, lost, x.name)
	}
}

// Behind a gap an operand counts whose key was written or erased as a whole since,
// and an erasure up to a fence for keys that were changed since. None of them did:
// values came out without their last operands, and deleted keys came out.
func TestSalvageBehindGap(t *testing.T) {
	set := func(key, value string) []byte { return appendOne(nil, kindLeafOne, 0, []byte(key), []byte(value)) }
	remove := func(key string) []byte { return appendOne(nil, kindLeafOne, entryTombstone, []byte(key), nil) }
	put := func(key, operand string) []byte {
		return appendOne(nil, kindLeafOne, entryOperand, []byte(key), appendOperand(nil, []byte(operand)))
	}
	erase := func(lo, hi string) []byte {
		return appendErase(nil, []byte(lo), []byte(hi), lo == "", hi == "")
	}
	base := leafOf(t, "a", "1", "b", "2", "c", "3")
	none := []byte(nil) // a gap
	for _, x := range []struct {
		name   string
		deltas [][]byte
		want   string
	}{
		{"no gap", [][]byte{put("a", "x"), erase("b", ""), put("b", "y")}, "a=1x b=y"},
		{"an operand on what may be missing", [][]byte{none, put("a", "x")}, "a=1 b=2 c=3"},
		{"before the gap", [][]byte{put("a", "x"), none, put("a", "y")}, "a=1x b=2 c=3"},
		{"on a value", [][]byte{none, put("a", "v"), set("a", "w"), put("a", "x")}, "a=wx b=2 c=3"},
		{"on a deletion", [][]byte{none, remove("a"), put("a", "x")}, "a=x b=2 c=3"},
		{"on an erasure", [][]byte{none, erase("a", "c"), put("b", "x")}, "b=x c=3"},
		{"a second gap", [][]byte{none, set("a", "w"), put("a", "x"), none, put("a", "y")}, "a=wx b=2 c=3"},
		{"up to fences that may be others", [][]byte{none, erase("", "")}, "a=1 b=2 c=3"},
		{"which had the key within", [][]byte{none, set("a", "w"), put("b", "x"), erase("", ""), put("b", "y")}, "b=y c=3"},
		{"up to a fence", [][]byte{none, set("a", "w"), set("c", "w"), erase("b", "")}, "a=w b=2"},
		{"before a second gap", [][]byte{none, set("a", "w"), none, erase("", "")}, "a=w b=2 c=3"},
	} {
		var fragments []pagecache.SalvagedFragment
		gap := false
		for i, d := range x.deltas {
			if d != nil {
				fragments = append(fragments, pagecache.SalvagedFragment{Fragment: pagecache.Fragment{Data: d, Stamp: uint64(i)}, Gap: gap})
			}
			gap = d == nil
		}
		deltas, _ := usable(base, fragments)
		merged, _, err := mergeVisible(base, deltas, true)
		require.NoError(t, err)
		var got []string
		s := &Salvage{merger: appendMerger, target: SalvageTarget{Set: func(key, value []byte) error {
			got = append(got, fmt.Sprintf("%s=%s", key, value))
			return nil
		}}}
		require.NoError(t, s.bringOutEntries(merged, 0, merged.count(), nil))
		require.Equal(t, x.want, strings.Join(got, " "), x.name)
	}
}
