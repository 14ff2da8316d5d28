package log

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/invariant"
	"github.com/pulkdb/db/internal/vfs"
)

// TestSalvager changes each byte of a closed log: a Salvager finds every update but
// the one that the byte is in, each as it was, and says where the damage is.
func TestSalvager(t *testing.T) {
	mem := vfs.NewMem()
	l, _ := open(t, tiny(mem))
	want := map[Position]Update{}
	for i := range 60 {
		u := testUpdate(i)
		p, _ := write(t, l, Stream(i%3/2), u)
		want[p] = u
	}
	require.NoError(t, l.Close())
	step := int64(1)
	if invariant.Debug {
		step = 11
	}
	names, err := mem.ReadDir("d")
	require.NoError(t, err)
	for _, name := range names {
		size, _, err := mem.Stat("d/" + name)
		require.NoError(t, err)
		for off := int64(0); off < size; off += step {
			bit := uint8(off * 7 % 8)
			require.True(t, mem.Corrupt("d/"+name, off, bit))
			s, err := OpenSalvager(mem, "d")
			require.NoError(t, err)
			found := map[Position]bool{}
			require.NoError(t, s.Scan(func(u Salvaged) error {
				got, _, err := s.Read(u.Position, nil)
				require.NoError(t, err)
				require.Equal(t, want[u.Position], got)
				require.False(t, u.Partial && u.Stamp != 0)
				found[u.Position] = true
				return nil
			}))
			s.CutTorn(Marks{}, Marks{}, nil)
			base, isSegment := parseSegmentName(name)
			at := base + LSN(off)
			for p := range want {
				hit := isSegment && at >= p.LSN && at < p.LSN+LSN(p.Size)
				require.Equal(t, !hit, found[p] && s.Counts(p.LSN), "%s at %d: %v", name, off, p)
				if hit {
					d := s.Damage()
					require.Len(t, d, 1)
					require.Equal(t, name, d[0].File)
					require.LessOrEqual(t, d[0].LSN, at)
					require.Greater(t, d[0].End, at)
				}
			}
			require.NoError(t, s.Close())
			require.True(t, mem.Corrupt("d/"+name, off, bit))
		}
	}
}

// What an earlier recovery cut off is not found, even if it can be read again.
func TestSalvagerCutOff(t *testing.T) {
	mem := vfs.NewMem()
	l, _ := open(t, tiny(mem))
	first, _ := write(t, l, Fresh, testUpdate(1))
	second, _ := write(t, l, Fresh, testUpdate(2))
	require.NoError(t, l.Sync())
	require.NoError(t, l.lock.Close())
	fs := mem.CrashClone(0)
	name := "d/" + segmentName(l.segmentAt(second.LSN).base)
	off := int64(second.LSN - l.segmentAt(second.LSN).base)
	require.True(t, fs.Corrupt(name, off, 1))
	l, list := open(t, tiny(fs))
	require.Len(t, list, 1)
	third, _ := write(t, l, Fresh, testUpdate(3))
	require.NoError(t, l.Close())
	require.True(t, fs.Corrupt(name, off, 1))
	require.Equal(t, map[Position]bool{first: true, third: true}, salvageAll(t, fs))
}

// If the header is lost that says where an earlier recovery cut the log off, what lies
// above the last mark before is doubtful. It was taken for what counts.
func TestSalvagerDoubts(t *testing.T) {
	mem := vfs.NewMem()
	l, _ := open(t, tiny(mem))
	first, _ := write(t, l, Fresh, testUpdate(1))
	require.NoError(t, l.Sync())
	second, _ := write(t, l, Fresh, testUpdate(2)) // with a mark behind the first
	require.NoError(t, l.Sync())
	require.NoError(t, l.lock.Close())
	fs := mem.CrashClone(0)
	name := "d/" + segmentName(l.segmentAt(second.LSN).base)
	off := int64(second.LSN - l.segmentAt(second.LSN).base)
	require.True(t, fs.Corrupt(name, off, 1))
	var last [2]Position
	for i := range last {
		l, _ = open(t, tiny(fs))
		last[i], _ = write(t, l, Fresh, testUpdate(3+i))
		require.NoError(t, l.Close())
	}
	require.True(t, fs.Corrupt(name, off, 1))
	doubtful := func() (doubtful []Position) {
		s, err := OpenSalvager(fs, "d")
		require.NoError(t, err)
		defer s.Close()
		require.NoError(t, s.Scan(func(u Salvaged) error { return nil }))
		s.CutTorn(Marks{}, Marks{}, map[LSN]bool{})
		for _, p := range []Position{first, second, last[0], last[1]} {
			require.True(t, s.Counts(p.LSN) || p == last[0])
			if s.Doubtful(p.LSN) {
				doubtful = append(doubtful, p)
			}
		}
		return doubtful
	}
	require.Empty(t, doubtful())
	require.NoError(t, fs.Remove("d/"+segmentName(l.segmentAt(last[0].LSN).base)))
	require.Equal(t, []Position{second}, doubtful())
}

// A segment that is missing or has no header, of which nothing says that it was
// durable, ends its stream: a crash took its name or its header. It was reported, and
// what follows it counted.
func TestSalvagerUnnamedSegment(t *testing.T) {
	mem := vfs.NewMem()
	l, _ := open(t, tiny(mem))
	var all []Position
	bases := map[LSN]bool{}
	for i := 0; len(bases) < 3; i++ {
		p, _ := write(t, l, Fresh, testUpdate(i))
		all = append(all, p)
		bases[l.segmentAt(p.LSN).base] = true
	}
	require.NoError(t, l.Sync())
	require.NoError(t, l.lock.Close())
	fs := mem.CrashClone(0)
	begin, middle := l.segmentAt(all[0].LSN).base, LSN(0)
	for base := range bases {
		if base != begin && (middle == 0 || base < middle) {
			middle = base
		}
	}
	look := func() {
		s, err := OpenSalvager(fs, "d")
		require.NoError(t, err)
		defer s.Close()
		require.NoError(t, s.Scan(func(Salvaged) error { return nil }))
		s.CutTorn(Marks{}, Marks{}, nil)
		for _, p := range all {
			require.Equal(t, p.LSN < middle, s.Counts(p.LSN), "%v", p)
		}
		require.Empty(t, s.Missing(nil, Marks{}))
		ends, marks := s.Ends()
		require.GreaterOrEqual(t, ends[Fresh], marks[Fresh])
		for _, d := range s.Damage() {
			require.ErrorIs(t, d.Err, errHeader)
		}
	}
	require.True(t, fs.Corrupt("d/"+segmentName(middle), 5, 1))
	look()
	require.NoError(t, fs.Remove("d/"+segmentName(middle)))
	look()
}

// What is left of a record that is a part of a group counts no more than the group,
// of which nothing is known then. It counted.
func TestSalvagerPartOfAGroup(t *testing.T) {
	mem := vfs.NewMem()
	l, _ := open(t, tiny(mem))
	g := l.NewGroup(Fresh)
	r, err := g.Reserve(200, false)
	require.NoError(t, err)
	first, second := r.Append(testUpdate(1)), r.Append(testUpdate(2))
	r.Complete(0)
	r, err = g.Reserve(100, true)
	require.NoError(t, err)
	r.Append(testUpdate(3))
	r.Complete(7)
	require.NoError(t, l.Close())
	base := l.segmentAt(first.LSN).base
	require.True(t, mem.Corrupt("d/"+segmentName(base), int64(first.LSN-base), 1))
	s, err := OpenSalvager(mem, "d")
	require.NoError(t, err)
	defer s.Close()
	partial := map[Position]bool{}
	require.NoError(t, s.Scan(func(u Salvaged) error {
		partial[u.Position] = u.Partial
		return nil
	}))
	require.Len(t, partial, 2)
	require.True(t, partial[second])
}

// Nothing is written, and a writer keeps a Salvager out.
func TestSalvagerLocks(t *testing.T) {
	mem := vfs.NewMem()
	l, _ := open(t, tiny(mem))
	_, err := OpenSalvager(mem, "d")
	require.ErrorIs(t, err, ErrLocked)
	require.NoError(t, l.Close())
	s, err := OpenSalvager(vfs.NewFault(mem, func(op vfs.Op) error {
		if op.Kind != vfs.OpOpen {
			return nil
		}
		return os.ErrPermission
	}), "d")
	require.ErrorIs(t, err, ErrNotStore, "no file can be read")
	require.Nil(t, s)
	require.NoError(t, mem.MkdirAll("empty"))
	_, err = OpenSalvager(mem, "empty")
	require.ErrorIs(t, err, ErrNotStore)
}

// Of a record that is damaged anywhere, every update is found but the one that was
// hit: every second one behind it was not looked for.
func TestSalvagerFindsTheRestOfARecord(t *testing.T) {
	mem := vfs.NewMem()
	l, _ := open(t, tiny(mem))
	const updates = 9
	size := 0
	for i := range updates {
		u := testUpdate(i)
		size += UpdateSize(u.PID, u.Version, len(u.Payload))
	}
	r, err := l.Reserve(Fresh, size)
	require.NoError(t, err)
	var want []Position
	for i := range updates {
		want = append(want, r.Append(testUpdate(i)))
	}
	r.Complete(1)
	require.NoError(t, l.Close())
	base := l.segmentAt(want[0].LSN).base
	first, last := want[0].LSN-recordHeaderBytes, want[updates-1].LSN+LSN(want[updates-1].Size)
	for at := first; at < last; at++ {
		require.True(t, mem.Corrupt("d/"+segmentName(base), int64(at-base), 3))
		found := salvageAll(t, mem)
		for _, p := range want {
			hit := at >= p.LSN && at < p.LSN+LSN(p.Size)
			require.Equal(t, !hit, found[p], "%v changed: %v", at, p)
		}
		require.True(t, mem.Corrupt("d/"+segmentName(base), int64(at-base), 3))
	}
}

// A segment without a header and without its first record is read all the same: if no
// other one of its incarnation was left, nothing of it was found.
func TestSalvagerFindsTheIncarnation(t *testing.T) {
	mem := vfs.NewMem()
	var want []Position // of the second incarnation, but the first
	var base LSN
	for incarnation := range 3 {
		l, _ := open(t, tiny(mem))
		for i := range 20 {
			p, _ := write(t, l, Fresh, testUpdate(i))
			if incarnation != 1 {
				break
			}
			if i == 0 {
				base = l.SegmentOf(p.LSN)
			} else if l.SegmentOf(p.LSN) == base {
				want = append(want, p)
			}
		}
		require.NoError(t, l.Close())
	}
	for off := int64(0); off < headerBytes+recordHeaderBytes+updateOffLength+1; off++ {
		require.True(t, mem.Corrupt("d/"+segmentName(base), off, 2))
	}
	found := salvageAll(t, mem)
	require.NotEmpty(t, want)
	for _, p := range want {
		require.True(t, found[p], "%v", p)
	}
}
