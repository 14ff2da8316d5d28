package pagecache

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/log"
)

// updatesOf reads updates written as kind, version and incarnation: a allocate,
// r replace, d delta, c consolidate, f free; with ? they are a part of a group
// whose last part was not found.
func updatesOf(s string) *salvagedPage {
	p := &salvagedPage{}
	kinds := map[byte]log.Kind{'a': log.KindAllocate, 'r': log.KindReplace, 'd': log.KindAppend, 'c': log.KindConsolidate, 'f': log.KindFree}
	for i, field := range strings.Fields(s) {
		u := salvagedUpdate{kind: kinds[field[0]], at: log.Position{LSN: log.LSN(i + 1)}, partial: strings.HasSuffix(field, "?")}
		_, err := fmt.Sscanf(strings.TrimSuffix(field[1:], "?"), "%d.%d", &u.version, &u.incarnation)
		if err != nil {
			panic(err)
		}
		p.updates = append(p.updates, u)
	}
	return p
}

// TestSalvagedState: of what was found of a page, which updates it consists of.
func TestSalvagedState(t *testing.T) {
	tests := []struct{ name, found, want string }{
		{"base and deltas", "a1.1 d2.1 d3.1", "a1 d2 d3"},
		{"out of order", "d3.1 a1.1 d2.1", "a1 d2 d3"},
		{"moved", "a1.1 d2.1 d3.1 c2.1", "c2 d3"},
		{"replaced", "a1.1 d2.1 r3.1 d4.1", "r3 d4"},
		{"delta and base of one version", "a1.1 d2.1 c2.1 d3.1", "c2 d3"},
		{"a gap", "a1.1 d3.1", "a1 d3"},
		{"no base", "d3.1 d4.1", "d3 d4"},
		{"freed", "a1.1 d2.1 f3.1", ""},
		{"used again", "a1.1 f2.1 a3.1 d4.1", "a3 d4"},
		{"used again, and the new base lost", "a1.1 f2.1 d4.1", "d4"},
		{"cut off by a recovery", "a1.1 d2.1 d3.1 d2.2", "a1 d2"},
		{"cut off with its base", "a1.1 d2.1 c2.1 d3.1 d2.2", "a1 d2"},
		{"cut off and freed", "a1.1 d2.1 f3.1 d2.2 d3.2", "a1 d2 d3"},
		{"moved later", "a1.1 d2.1 d3.1 c1.2", "c1 d2 d3"},
		{"part of a group without an end", "a1.1 d2.1 d3.1?", "a1 d2"},
		{"part of a group that was built upon", "a1.1 d2.1? d3.1", "a1 d2 d3"},
		{"page of a group without an end", "a1.1?", ""},
	}
	for _, test := range tests {
		p := updatesOf(test.found)
		p.settle()
		var got []string
		for _, u := range p.state() {
			got = append(got, fmt.Sprintf("%c%d", u.kind.String()[0], u.version))
		}
		want := strings.ReplaceAll(test.want, "d", "a") // of append
		require.Equal(t, want, strings.Join(got, " "), test.name)
	}
}

// TestSalvagedPrune: however many updates a page has, few are kept, and its state
// is the same.
func TestSalvagedPrune(t *testing.T) {
	s := &Salvager{pages: map[PID]*salvagedPage{}}
	version := uint64(0)
	add := func(kind log.Kind) {
		if kind != log.KindConsolidate {
			version++
		}
		require.NoError(t, s.add(log.Salvaged{Update: log.Update{PID: 7, Version: version, Kind: kind}, Incarnation: 1,
			Position: log.Position{LSN: log.LSN(version), Size: 1}}))
	}
	add(log.KindAllocate)
	for range 1000 {
		for range 9 {
			add(log.KindAppend)
		}
		add(log.KindConsolidate)
	}
	add(log.KindAppend)
	p := s.pages[7]
	require.Less(t, len(p.updates), 10*pruneBases+pruneUpdates)
	p.settle()
	require.Len(t, p.state(), 2)
	require.Equal(t, log.KindConsolidate, p.state()[0].kind)
}
