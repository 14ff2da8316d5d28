package pagecache

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/vfs"
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
		{"part of a group that another incarnation cut off", "a1.1 d2.1? d3.2", "a1 d3"},
		{"page of a group without an end", "a1.1?", ""},
		{"written by a group that was given up, and anew", "a1.1 r2.1? d2.1 d3.1", "a1 d2 d3"},
		{"freed by a group that was given up", "a1.1 f2.1? d2.1", "a1 d2"},
		{"cut off, and in part of a group that was built upon", "a1.1 d2.1 d2.2? d3.2", "a1 d2 d3"},
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
	s := &Salvager{pages: map[PID]*salvagedPage{}, durable: func(log.LSN) bool { return true }}
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

// TestSalvagedPruneTorn: however many updates of a page prove to lie behind the torn
// end of the log, those before it are kept. They were not, and the page was lost.
func TestSalvagedPruneTorn(t *testing.T) {
	const torn = 21
	s := &Salvager{pages: map[PID]*salvagedPage{}, durable: func(lsn log.LSN) bool { return lsn < torn }}
	for version := uint64(1); version < 1000; version++ {
		kind := log.KindAppend
		if version%10 == 1 {
			kind = log.KindReplace
		}
		require.NoError(t, s.add(log.Salvaged{Update: log.Update{PID: 7, Version: version, Kind: kind}, Incarnation: 1,
			Position: log.Position{LSN: log.LSN(version), Size: 1}}))
	}
	p := s.pages[7]
	p.updates = slices.DeleteFunc(p.updates, func(u salvagedUpdate) bool { return u.at.LSN >= torn })
	p.settle()
	require.Len(t, p.state(), 10)
}

// TestSalvagedTornGroup: of a group whose last part lies behind the torn end of its
// stream nothing counts. What lay before the end did: a value was named of which
// parts were missing.
func TestSalvagedTornGroup(t *testing.T) {
	mem := vfs.NewMem()
	o := log.Options{Dir: "store", FS: mem, SegmentBytes: tornSegmentBytes, BufferBytes: 2 << 10}
	l, err := log.Open(o)
	require.NoError(t, err)
	_, err = l.Replay(log.Marks{}, nil)
	require.NoError(t, err)
	require.NoError(t, l.Start())
	put := func(r log.Reservation, err error, pid PID, kind log.Kind, version uint64) log.LSN {
		require.NoError(t, err)
		p := r.Append(log.Update{PID: pid, Version: version, Kind: kind, Payload: []byte("x")})
		r.Complete(0)
		return p.LSN
	}
	const size = 40 // more than an update needs
	r, err := l.Reserve(log.Fresh, size)
	put(r, err, 1, log.KindAllocate, 1)
	require.NoError(t, l.Sync())
	g := l.NewGroup(log.Fresh)
	r, err = g.Reserve(size, false)
	put(r, err, 1, log.KindAppend, 2)
	r, err = g.Reserve(size, false)
	torn := put(r, err, 2, log.KindAllocate, 1)
	r, err = g.Reserve(size, true)
	put(r, err, 3, log.KindAllocate, 1)
	require.NoError(t, l.Sync())
	fs := mem.CrashClone(0)
	require.NoError(t, l.Close())

	version := func() uint64 {
		s, err := OpenSalvager(fs, "store")
		require.NoError(t, err)
		defer s.Close()
		require.Empty(t, s.Damage())
		return s.Page(1).Version
	}
	require.EqualValues(t, 2, version())
	base := torn / tornSegmentBytes * tornSegmentBytes
	require.True(t, fs.Corrupt(fmt.Sprintf("store/%016x.seg", uint64(base)), int64(torn-base), 1))
	require.EqualValues(t, 1, version())
}

const tornSegmentBytes = 16 << 10
