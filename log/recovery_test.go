package log

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/crashtest"
	"github.com/pulkdb/db/internal/vfs"
)

// noReplay opens and replays, and returns what went wrong.
func noReplay(fs vfs.FS) error {
	l, err := Open(tiny(fs))
	if err != nil {
		return err
	}
	defer l.Close()
	_, err = l.Replay(Marks{}, func(Update, Position) error { return nil })
	return err
}

// TestDamage flips each bit of each file of a closed log: whatever lies below
// the last mark is found, by Open or Replay, and nothing panics.
func TestDamage(t *testing.T) {
	mem := vfs.NewMem()
	l, _ := open(t, tiny(mem))
	var ends [streams]LSN
	for i := range 150 {
		s := Stream(i % 3 / 2)
		_, ends[s] = write(t, l, s, testUpdate(i))
	}
	require.NoError(t, l.Close())
	names, err := mem.ReadDir("d")
	require.NoError(t, err)
	var damage crashtest.Damage
	for _, name := range names {
		size, _, err := mem.Stat("d/" + name)
		require.NoError(t, err)
		for off := int64(0); off < size; off += 3 {
			damage.Flipped++
			bit := uint8(off)
			base, isSegment := parseSegmentName(name)
			require.True(t, mem.Corrupt("d/"+name, off, bit))
			err := noReplay(mem)
			var corrupt *CorruptError
			switch {
			case isSegment && base+LSN(off) >= ends[Fresh] && base+LSN(off) < ends[Fresh]+recordHeaderBytes,
				isSegment && base+LSN(off) >= ends[Survivors] && base+LSN(off) < ends[Survivors]+recordHeaderBytes:
				require.NoError(t, err, "the last mark: nothing covers it")
				damage.Answers[2]++
			case errors.As(err, &corrupt):
				require.Equal(t, name, corrupt.File)
				require.ErrorIs(t, err, ErrCorrupt)
				damage.Answers[0]++
				if isSegment && off >= headerBytes {
					require.LessOrEqual(t, corrupt.Offset, off)
					require.Greater(t, corrupt.Offset+200, off)
				}
			default:
				require.Fail(t, "damage not found", "%s at %d: %v", name, off, err)
			}
			require.True(t, mem.Corrupt("d/"+name, off, bit))
		}
	}
	require.NoError(t, noReplay(mem))
	crashtest.ReportDamage(t, "log", damage)
}

// TestTornTail cuts the log at each byte of its last unsynced records: what is
// before the cut is there, and what is behind it never comes back (L4).
func TestTornTail(t *testing.T) {
	mem := vfs.NewMem()
	l, _ := open(t, tiny(mem))
	var want []delivered
	for i := range 5 {
		u := testUpdate(i)
		p, _ := write(t, l, Fresh, u)
		want = append(want, delivered{u, p})
	}
	require.NoError(t, l.Sync())
	require.NoError(t, l.lock.Close())
	name := "d/" + segmentName(l.segmentAt(want[0].Position.LSN).base)
	for _, w := range want {
		clone := mem.CrashClone(0)
		off := int64(w.Position.LSN - l.segmentAt(w.Position.LSN).base)
		require.True(t, clone.Corrupt(name, off+5, 1))
		l2, list := open(t, tiny(clone))
		n := len(list)
		require.ElementsMatch(t, want[:n], list)
		require.Less(t, n, len(want))
		p, _ := write(t, l2, Fresh, testUpdate(77))
		require.NoError(t, l2.Sync())
		require.Greater(t, p.LSN, want[4].Position.LSN)
		require.NoError(t, l2.lock.Close())
		// Even when the damage heals.
		require.True(t, clone.Corrupt(name, off+5, 1))
		l3, list := open(t, tiny(clone.CrashClone(0)))
		require.Equal(t, append(want[:n:n], delivered{testUpdate(77), p}), list)
		require.NoError(t, l3.Close())
	}
}

// TestFarSegment puts a file into a closed log, or changes what STORE says: with a number
// of a segment far behind the others the table of segments took more memory than there
// is, or LSNs began again at zero.
func TestFarSegment(t *testing.T) {
	for _, name := range []string{"00010000ffff0000.seg", "7fffffffffff0000.seg", "fffffffffffff000.seg", identityName} {
		mem := vfs.NewMem()
		l, _ := open(t, tiny(mem))
		write(t, l, Fresh, testUpdate(1))
		require.NoError(t, l.Close())
		var p []byte
		if name == identityName {
			p = appendIdentity(nil, identity{storeID: l.storeID, incarnation: 1, segmentBytes: 4096, nextSegment: 1 << 50})
		}
		writeFile(t, mem, name, p)
		var corrupt *CorruptError
		require.ErrorAs(t, noReplay(mem), &corrupt, name)
		require.Equal(t, name, corrupt.File)
	}
}

// TestMissingSegment takes one file away: an error unless nobody needs it.
func TestMissingSegment(t *testing.T) {
	mem := vfs.NewMem()
	l, _ := open(t, tiny(mem))
	for i := range 500 {
		_, end := write(t, l, Fresh, testUpdate(i))
		if i%20 == 0 {
			require.NoError(t, l.WaitDurable(Fresh, end))
		}
	}
	infos := l.Segments()
	require.NoError(t, l.Close())
	require.Greater(t, len(infos), 4)
	clone := mem.CrashClone(0)
	require.NoError(t, clone.Remove("d/"+segmentName(infos[2].Base)))
	require.ErrorIs(t, noReplay(clone), ErrCorrupt)
	l, err := Open(tiny(clone))
	require.NoError(t, err)
	_, err = l.Replay(Marks{infos[3].Base}, func(Update, Position) error { return nil })
	require.NoError(t, err)
	// The header of the missing one said where the one before it ends.
	scanned := 0
	require.NoError(t, l.ScanSegment(infos[0].Base, func(Update, Position) error { scanned++; return nil }))
	require.Greater(t, scanned, 50)
	require.Equal(t, infos[0].End, l.Segments()[0].End)
	require.NoError(t, l.Close())
}

// TestRecycleUnmarked recycles a segment whose successor's header was written
// before anything was durable (L2).
func TestRecycleUnmarked(t *testing.T) {
	mem := vfs.NewMem()
	l, _ := open(t, tiny(mem))
	first, _ := write(t, l, Fresh, testUpdate(0))
	for i := 1; l.number(l.Tail(Fresh)) == l.number(first.LSN); i++ {
		write(t, l, Fresh, testUpdate(i))
	}
	require.NoError(t, l.Sync())
	require.NoError(t, l.Recycle(l.segmentAt(first.LSN).base))
	_, _, err := l.Read(first, nil)
	require.ErrorIs(t, err, ErrGone)
	for seed := range int64(20) {
		clone := mem.CrashClone(seed)
		l2, err := Open(tiny(clone))
		require.NoError(t, err)
		var list []delivered
		if _, err = l2.Replay(Marks{}, collect(&list)); err == nil {
			require.NotEmpty(t, list)
		} else {
			require.ErrorIs(t, err, ErrCorrupt)
		}
		require.NoError(t, l2.Close())
	}
	require.NoError(t, l.Close())
}

// TestGroups: whole groups with the last stamp where the last part stands, and
// nothing of the others.
func TestGroups(t *testing.T) {
	mem := vfs.NewMem()
	l, _ := open(t, tiny(mem))
	part := func(g *Group, i int, last bool) {
		u := testUpdate(i)
		r, err := g.Reserve(UpdateSize(u.PID, u.Version, len(u.Payload)), last)
		require.NoError(t, err)
		r.Append(u)
		if last {
			r.Complete(1234)
		} else {
			r.Complete(0)
		}
	}
	before := l.ReplayStart()[Fresh]
	a, b, c := l.NewGroup(Fresh), l.NewGroup(Fresh), l.NewGroup(Fresh)
	part(a, 0, false)
	part(b, 10, false)
	part(c, 20, false)
	write(t, l, Fresh, testUpdate(5))
	part(b, 11, false)
	part(a, 1, false)
	for i := range 200 {
		write(t, l, Fresh, testUpdate(100+i))
	}
	require.LessOrEqual(t, before, l.ReplayStart()[Fresh])
	require.Less(t, l.ReplayStart()[Fresh], before+100)
	part(a, 2, true)
	part(b, 12, false)
	b.Abandon()
	require.Less(t, l.ReplayStart()[Fresh], before+300, "c is open")
	require.Greater(t, l.Tail(Fresh), l.Tail(Survivors))
	c.Abandon()
	require.Equal(t, Marks{l.Tail(Fresh), l.Tail(Survivors)}, l.ReplayStart())
	require.NoError(t, l.Close())
	l, list := open(t, tiny(mem))
	require.Len(t, list, 204)
	for i, d := range list[201:] {
		want := testUpdate(i)
		want.Stamp = 1234
		require.Equal(t, want, d.Update)
		got, _, err := l.Read(d.Position, nil)
		require.NoError(t, err)
		require.Equal(t, want.Payload, got.Payload)
	}
	require.NoError(t, l.Close())
}

// TestReplayFrom delivers what a replay start promises (L7).
func TestReplayFrom(t *testing.T) {
	mem := vfs.NewMem()
	l, _ := open(t, tiny(mem))
	for i := range 300 {
		write(t, l, Fresh, testUpdate(i))
	}
	r, err := l.Reserve(Survivors, 50)
	require.NoError(t, err)
	start := l.ReplayStart()
	require.LessOrEqual(t, start[Survivors], r.LSN())
	r.Abort()
	start = l.ReplayStart()
	for i := range 300 {
		write(t, l, Stream(i%2), testUpdate(1000+i))
	}
	require.NoError(t, l.Close())
	l, err = Open(tiny(mem))
	require.NoError(t, err)
	seen := map[uint64]bool{}
	for _, d := range replayAll(t, l, start) {
		seen[d.Version] = true
	}
	for i := range uint64(300) {
		require.True(t, seen[1000+i])
	}
	require.Less(t, len(seen), 600)
	require.NoError(t, l.Close())
}

func TestOpenErrors(t *testing.T) {
	mem := vfs.NewMem()
	l, _ := open(t, tiny(mem))
	_, err := Open(tiny(mem))
	require.ErrorIs(t, err, ErrLocked)
	o := tiny(mem)
	o.ReadOnly = true
	_, err = Open(o)
	require.ErrorIs(t, err, ErrLocked)
	p, _ := write(t, l, Fresh, testUpdate(1))
	_, err = l.Reserve(Fresh, l.MaxRecord()+1)
	require.ErrorIs(t, err, ErrTooLarge)
	r, err := l.Reserve(Fresh, l.MaxRecord())
	require.NoError(t, err)
	r.Abort()
	require.NoError(t, l.Close())
	_, err = l.Reserve(Fresh, 1)
	require.ErrorIs(t, err, ErrClosed)
	require.ErrorIs(t, l.Throttle(), ErrClosed)
	_, _, err = l.Read(p, nil)
	require.ErrorIs(t, err, ErrClosed)

	before := mem.String()
	a, err := Open(o)
	require.NoError(t, err)
	b, err := Open(o)
	require.NoError(t, err)
	_, err = Open(tiny(mem))
	require.ErrorIs(t, err, ErrLocked)
	require.Len(t, replayAll(t, a, Marks{}), 1)
	u, _, err := a.Read(p, nil)
	require.NoError(t, err)
	require.Equal(t, testUpdate(1), u)
	require.ErrorIs(t, a.Start(), ErrReadOnly)
	_, err = a.Reserve(Fresh, 1)
	require.ErrorIs(t, err, ErrReadOnly)
	require.NoError(t, a.Close())
	require.NoError(t, b.Close())
	require.Equal(t, before, mem.String())
}

func TestNotStore(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "letter.txt"), []byte("dear"), 0o666))
	_, err := Open(Options{Dir: dir})
	require.ErrorIs(t, err, ErrNotStore)
	names, err := vfs.OS.ReadDir(dir)
	require.NoError(t, err)
	require.Equal(t, []string{"letter.txt"}, names)
	_, err = Open(Options{Dir: filepath.Join(dir, "none"), ReadOnly: true})
	require.Error(t, err)
	l, _ := open(t, Options{Dir: filepath.Join(dir, "a", "b")})
	_, err = Open(Options{Dir: filepath.Join(dir, "a", "b")})
	require.ErrorIs(t, err, ErrLocked)
	require.NoError(t, l.Close())
}

func TestDiscard(t *testing.T) {
	l, err := Open(Options{Discard: true, SegmentBytes: 4096, BufferBytes: 512})
	require.NoError(t, err)
	_, err = l.Replay(Marks{}, nil)
	require.NoError(t, err)
	require.NoError(t, l.Start())
	for i := range 1000 {
		p, end := write(t, l, Fresh, testUpdate(i))
		require.NoError(t, l.WaitDurable(Fresh, end))
		require.Equal(t, l.Tail(Fresh), l.Durable(Fresh))
		l.Account(p, true)
		require.NoError(t, l.Throttle())
	}
	// Groups are noted for those who ask for a replay start, and here nobody does: each
	// stayed for ever.
	g := l.NewGroup(Fresh)
	for i := range 2 {
		u := testUpdate(i)
		r, err := g.Reserve(UpdateSize(u.PID, u.Version, len(u.Payload)), i == 1)
		require.NoError(t, err)
		r.Append(u)
		r.Complete(0)
	}
	require.Empty(t, l.groups)
	require.NoError(t, l.Sync())
	require.Zero(t, l.Metrics().BytesWritten)
	require.NoError(t, l.Close())
}

// TestTableOfALongLog: chunks of the segment table without a segment are passed over as a
// whole. Whoever listed the segments looked at all there ever were, a million per TiB.
func TestTableOfALongLog(t *testing.T) {
	var table table
	kept := &segment{}
	kept.linked.Store(true)
	for n := range uint64(5 * chunkSegments) {
		table.put(n, &segment{})
		table.put(n, kept) // counts once
		if n != 3*chunkSegments+7 {
			table.remove(n)
			table.remove(n)
		}
	}
	require.Equal(t, []*segment{kept}, table.all())
	for i, c := range table.directory.Load().chunks {
		used := 0
		if i == 3 {
			used = 1
		}
		require.EqualValues(t, used, c.used.Load())
	}
	table.remove(3*chunkSegments + 7)
	require.Empty(t, table.all())
}

// TestDeadSegments: what lies behind the end is removed before anything is
// written, and its numbers are not used again (L4).
func TestDeadSegments(t *testing.T) {
	mem := vfs.NewMem()
	l, _ := open(t, tiny(mem))
	var want []delivered
	for i := range 300 {
		u := testUpdate(i)
		p, _ := write(t, l, Fresh, u)
		want = append(want, delivered{u, p})
		l.writeSealed()
	}
	require.NoError(t, l.fs.SyncDir("d"))
	require.NoError(t, l.lock.Close())
	// Everything reached the disk but the third record.
	off := int64(want[3].Position.LSN - l.segmentAt(want[3].Position.LSN).base)
	require.True(t, mem.Corrupt("d/"+segmentName(l.segmentAt(want[3].Position.LSN).base), off, 0))
	before, err := mem.ReadDir("d")
	require.NoError(t, err)
	l2, list := open(t, tiny(mem))
	require.Equal(t, want[:3], list)
	after, err := mem.ReadDir("d")
	require.NoError(t, err)
	require.Len(t, after, 3, "%v", after)
	p, _ := write(t, l2, Fresh, testUpdate(1))
	last, _ := parseSegmentName(before[len(before)-2])
	require.Greater(t, p.LSN, last)
	require.Greater(t, l2.Incarnation(), l.Incarnation())
	require.Equal(t, l.StoreID(), l2.StoreID())
	require.NoError(t, l2.Close())
}

// TestReplayStartHeldBack: neither a reservation nor a group that straddles the
// prefix is cut, and the prefix never goes back (L7).
func TestReplayStartHeldBack(t *testing.T) {
	l, _ := open(t, tiny(vfs.NewMem()))
	l.writeSealed()
	g := l.NewGroup(Fresh)
	u := testUpdate(1)
	n := UpdateSize(u.PID, u.Version, len(u.Payload))
	part, err := g.Reserve(n, false)
	require.NoError(t, err)
	first := part.LSN()
	part.Append(u)
	part.Complete(0)
	prefix := l.CompletedPrefix(Fresh)
	require.Equal(t, l.Tail(Fresh), prefix)
	pending, err := l.Reserve(Fresh, n)
	require.NoError(t, err)
	require.Equal(t, prefix, l.CompletedPrefix(Fresh))
	last, err := g.Reserve(n, true)
	require.NoError(t, err)
	last.Append(u)
	last.Complete(3)
	for i := range 10 {
		write(t, l, Survivors, testUpdate(i))
	}
	require.LessOrEqual(t, l.ReplayStart()[Fresh], first, "the group is finished, but not below the prefix")
	pending.Abort()
	require.Greater(t, l.ReplayStart()[Fresh], first)
	require.Empty(t, l.groups)
	require.NoError(t, l.Close())
}

// TestRecycleDuringRead has the file reused between opening and reading (L6).
func TestRecycleDuringRead(t *testing.T) {
	var onRead func()
	fs := vfs.NewFault(vfs.NewMem(), func(op vfs.Op) error {
		if f := onRead; op.Kind == vfs.OpRead && f != nil {
			onRead = nil
			f()
		}
		return nil
	})
	l, _ := open(t, tiny(fs))
	first, _ := write(t, l, Fresh, testUpdate(0))
	base := l.segmentAt(first.LSN).base
	fill := func(segments uint64) {
		for start := l.number(l.Tail(Fresh)); l.number(l.Tail(Fresh)) < start+segments; {
			write(t, l, Fresh, testUpdate(1))
			require.NoError(t, l.Throttle())
		}
		require.NoError(t, l.Sync())
	}
	fill(3)
	fill(3)
	onRead = func() {
		require.NoError(t, l.Recycle(base))
		fill(1) // makes the new name of the file durable
		fill(3)
	}
	_, _, err := l.Read(first, nil)
	require.ErrorIs(t, err, ErrGone)
	require.Zero(t, l.files.count(), "the file is in use again")
	require.NoError(t, l.Close())
}

// Open makes each new directory above a store durable: the file system in memory
// keeps directories through a crash, so the test looks at what is asked of it.
func TestNewDirectoriesAreDurable(t *testing.T) {
	var synced []string
	o := tiny(vfs.NewFault(vfs.NewMem(), func(op vfs.Op) error {
		if op.Kind == vfs.OpSyncDir {
			synced = append(synced, op.Name)
		}
		return nil
	}))
	o.Dir = "a/b/c"
	l, err := Open(o)
	require.NoError(t, err)
	require.Subset(t, synced, []string{"a/b", "a", "."})
	require.NoError(t, l.Close())
}

// TestCutBelowReplayStart: a segment that is shorter than the replay start says
// is damage, although nothing is missing that would be delivered. It was accepted,
// and the next Open refused it.
func TestCutBelowReplayStart(t *testing.T) {
	mem := vfs.NewMem()
	l, _ := open(t, tiny(mem))
	p, end := write(t, l, Fresh, testUpdate(1))
	require.NoError(t, l.Close())
	name := segmentName(l.segmentAt(p.LSN).base)
	size, _, err := mem.Stat("d/" + name)
	require.NoError(t, err)
	base, _ := parseSegmentName(name)
	for n := int64(headerBytes); n <= size; n++ {
		clone := mem.CrashClone(0)
		file, err := clone.OpenFile("d/"+name, os.O_RDWR, 0)
		require.NoError(t, err)
		require.NoError(t, file.Truncate(n))
		l, err := Open(tiny(clone))
		require.NoError(t, err)
		_, err = l.Replay(Marks{Fresh: end}, func(Update, Position) error { return nil })
		if cut := base+LSN(n) < end; cut {
			require.ErrorIs(t, err, ErrCorrupt, n)
		} else {
			require.NoError(t, err, n)
		}
		require.NoError(t, l.Close())
	}
}
