package tree

import (
	"fmt"
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
