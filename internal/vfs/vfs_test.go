package vfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestFS holds for the real file system and for the one in memory.
func TestFS(t *testing.T) {
	for name, c := range map[string]struct {
		fs  FS
		dir string
	}{
		"os":    {OS, t.TempDir()},
		"mem":   {NewMem(), "/x"},
		"fault": {NewFault(NewMem(), nil), "/x"},
	} {
		t.Run(name, func(t *testing.T) { testFS(t, c.fs, filepath.Join(c.dir, "a", "b")) })
	}
}

func testFS(t *testing.T, v FS, dir string) {
	require.NoError(t, v.MkdirAll(dir))
	require.NoError(t, v.MkdirAll(dir))
	path := func(name string) string { return filepath.Join(dir, name) }
	_, err := v.OpenFile(path("f"), os.O_RDWR, 0)
	require.ErrorIs(t, err, fs.ErrNotExist)
	f, err := v.OpenFile(path("f"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	require.NoError(t, err)
	_, err = v.OpenFile(path("f"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	require.ErrorIs(t, err, fs.ErrExist)
	_, err = f.WriteAt([]byte("hello"), 3)
	require.NoError(t, err)
	p := make([]byte, 10)
	n, err := f.ReadAt(p, 0)
	require.Equal(t, 8, n)
	require.ErrorIs(t, err, io.EOF)
	require.Equal(t, "\x00\x00\x00hello", string(p[:n]))
	require.NoError(t, f.Truncate(4))
	require.NoError(t, f.Truncate(6))
	size, err := f.Size()
	require.NoError(t, err)
	require.EqualValues(t, 6, size)
	n, _ = f.ReadAt(p, 0)
	require.Equal(t, "\x00\x00\x00h\x00\x00", string(p[:n]))
	require.NoError(t, f.Sync())
	require.NoError(t, f.Close())
	require.Error(t, f.Sync())

	require.NoError(t, v.Rename(path("f"), path("g")))
	require.NoError(t, v.SyncDir(dir))
	names, err := v.ReadDir(dir)
	require.NoError(t, err)
	require.Equal(t, []string{"g"}, names)
	size, isDir, err := v.Stat(path("g"))
	require.NoError(t, err)
	require.False(t, isDir)
	require.EqualValues(t, 6, size)
	_, isDir, err = v.Stat(dir)
	require.NoError(t, err)
	require.True(t, isDir)
	require.NoError(t, v.Remove(path("g")))
	require.ErrorIs(t, v.Remove(path("g")), fs.ErrNotExist)

	_, err = v.Lock(path("LOCK"), true)
	require.ErrorIs(t, err, fs.ErrNotExist)
	l, err := v.Lock(path("LOCK"), false)
	require.NoError(t, err)
	_, err = v.Lock(path("LOCK"), false)
	require.ErrorIs(t, err, ErrLocked)
	_, err = v.Lock(path("LOCK"), true)
	require.ErrorIs(t, err, ErrLocked)
	require.NoError(t, l.Close())
	a, err := v.Lock(path("LOCK"), true)
	require.NoError(t, err)
	b, err := v.Lock(path("LOCK"), true)
	require.NoError(t, err)
	_, err = v.Lock(path("LOCK"), false)
	require.ErrorIs(t, err, ErrLocked)
	require.NoError(t, a.Close())
	require.NoError(t, b.Close())
}

func read(t *testing.T, m *Mem, name string) string {
	f, err := m.OpenFile(name, os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return "absent"
	}
	require.NoError(t, err)
	size, err := f.Size()
	require.NoError(t, err)
	p := make([]byte, size)
	if size > 0 {
		_, err = f.ReadAt(p, 0)
		require.NoError(t, err)
	}
	return string(p)
}

func TestCrashClone(t *testing.T) {
	m := NewMem()
	f, err := m.OpenFile("f", os.O_RDWR|os.O_CREATE, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("one"), 0)
	require.NoError(t, err)
	require.NoError(t, f.Sync())
	require.Equal(t, "absent", read(t, m.CrashClone(0), "f"), "no SyncDir")
	require.NoError(t, m.SyncDir("."))
	require.Equal(t, "one", read(t, m.CrashClone(0), "f"))

	_, err = f.WriteAt([]byte("two"), 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("far"), 5*sectorBytes)
	require.NoError(t, err)
	require.NoError(t, m.Rename("f", "g"))
	require.Equal(t, "one", read(t, m.CrashClone(0), "f"))
	require.Equal(t, "absent", read(t, m.CrashClone(0), "g"))
	seen := map[string]int{}
	for seed := range int64(300) {
		c := m.CrashClone(seed)
		old, renamed := read(t, c, "f"), read(t, c, "g")
		require.True(t, (old == "absent") != (renamed == "absent"), "a rename is atomic")
		data := old
		if old == "absent" {
			data = renamed
		}
		require.Contains(t, []string{"one", "two"}, data[:3])
		seen[data]++
		if len(data) > 3 {
			require.Len(t, data, 5*sectorBytes+3)
			require.Contains(t, []string{"far", "\x00\x00\x00"}, data[5*sectorBytes:])
		}
	}
	require.GreaterOrEqual(t, len(seen), 5, "all combinations occur")
	require.NoError(t, f.Sync())
	require.NoError(t, m.SyncDir("."))
	require.NoError(t, m.Remove("g"))
	require.Len(t, read(t, m.CrashClone(0), "g"), 5*sectorBytes+3)
	require.NoError(t, m.SyncDir("."))
	require.Equal(t, "absent", read(t, m.CrashClone(0), "g"))
}

// TestFailedSync: what was dirty when a sync failed is not written by the next
// one, the system shows it for a while, and what is written again gets there.
func TestFailedSync(t *testing.T) {
	boom := errors.New("boom")
	lost, forgotten := 0, 0
	for seed := range int64(200) {
		m := NewMem()
		m.Seed(seed)
		fail := false
		v := NewFault(m, func(op Op) error {
			if fail && op.Kind == OpSync {
				return boom
			}
			return nil
		})
		f, err := v.OpenFile("f", os.O_RDWR|os.O_CREATE, 0)
		require.NoError(t, err)
		_, err = f.WriteAt([]byte("one"), 0)
		require.NoError(t, err)
		require.NoError(t, f.Sync())
		require.NoError(t, m.SyncDir("."))
		_, err = f.WriteAt([]byte("two"), 0)
		require.NoError(t, err)
		_, err = f.WriteAt([]byte("far"), 3*sectorBytes)
		require.NoError(t, err)
		fail = true
		require.ErrorIs(t, f.Sync(), boom)
		fail = false
		require.NoError(t, f.Sync())
		data := read(t, m.CrashClone(0), "f")
		require.Contains(t, []string{"one", "two"}, data[:3])
		if data != "two"+string(make([]byte, 3*sectorBytes-3))+"far" {
			lost++
		}
		shown := read(t, m, "f")
		for range 20 {
			again := read(t, m, "f")
			require.True(t, again[:3] == shown[:3] || again[:3] == data[:3])
			if again != shown {
				forgotten++
				break
			}
		}
		_, err = f.WriteAt([]byte("two"), 0)
		require.NoError(t, err)
		_, err = f.WriteAt([]byte("far"), 3*sectorBytes)
		require.NoError(t, err)
		require.NoError(t, f.Sync())
		data = read(t, m.CrashClone(0), "f")
		require.Equal(t, "two", data[:3])
		require.Equal(t, "far", data[3*sectorBytes:], "the size is made good as well")
	}
	require.Greater(t, lost, 20)
	require.Greater(t, forgotten, 20)
}

// TestCrashKeepsOlderVersions: of a sector that was written twice, the first of
// the two may be what survives; and of two files either may survive alone.
func TestCrashKeepsOlderVersions(t *testing.T) {
	m := NewMem()
	for _, name := range []string{"f", "g"} {
		f, err := m.OpenFile(name, os.O_RDWR|os.O_CREATE, 0)
		require.NoError(t, err)
		require.NoError(t, m.SyncDir("."))
		for _, data := range []string{"a", "ab", "abc"} {
			_, err = f.WriteAt([]byte(data), 0)
			require.NoError(t, err)
		}
	}
	seen := map[string]int{}
	for seed := range int64(2000) {
		c := m.CrashClone(seed)
		seen[read(t, c, "f")+","+read(t, c, "g")]++
	}
	for _, want := range []string{",", "abc,", ",abc", "abc,abc", "a,abc", "ab\x00,\x00\x00\x00", "ab\x00,abc"} {
		require.NotZero(t, seen[want], "%q of %q", want, seen)
	}
}

// TestCrashLosesDirectories: a directory is durable once the one above it was
// synced, and takes what stands in it along.
func TestCrashLosesDirectories(t *testing.T) {
	m := NewMem()
	require.NoError(t, m.MkdirAll("a/b"))
	f, err := m.OpenFile("a/b/f", os.O_RDWR|os.O_CREATE, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("x"), 0)
	require.NoError(t, err)
	require.NoError(t, f.Sync())
	for _, dir := range []string{"a/b", "a", "."} {
		require.Equal(t, "absent", read(t, m.CrashClone(0), "a/b/f"))
		require.NoError(t, m.SyncDir(dir))
	}
	require.Equal(t, "x", read(t, m.CrashClone(0), "a/b/f"))
	require.Error(t, m.Remove("a/b"))
	require.NoError(t, m.Remove("a/b/f"))
	require.NoError(t, m.Remove("a/b"))
	require.Equal(t, "x", read(t, m.CrashClone(0), "a/b/f"))
	require.NoError(t, m.SyncDir("a"))
	require.Equal(t, "absent", read(t, m.CrashClone(0), "a/b/f"))
}

// TestFaultKinds: partial reads and writes, and operations that are carried out
// and fail.
func TestFaultKinds(t *testing.T) {
	boom := errors.New("boom")
	var next error
	m := NewMem()
	v := NewFault(m, func(op Op) error {
		err := next
		next = nil
		return err
	})
	f, err := v.OpenFile("f", os.O_RDWR|os.O_CREATE, 0)
	require.NoError(t, err)
	next = &Partial{3, boom}
	n, err := f.WriteAt([]byte("hello"), 0)
	require.ErrorIs(t, err, boom)
	require.Equal(t, 3, n)
	require.Equal(t, "hel", read(t, m, "f"))
	next = &Partial{2, boom}
	p := make([]byte, 3)
	n, err = f.ReadAt(p, 0)
	require.ErrorIs(t, err, boom)
	require.Equal(t, "he\x00", string(p))
	require.Equal(t, 2, n)
	next = &Late{boom}
	require.ErrorIs(t, v.Rename("f", "g"), boom)
	require.Equal(t, "hel", read(t, m, "g"))
	next = &Late{boom}
	require.ErrorIs(t, f.Truncate(1), boom)
	require.Equal(t, "h", read(t, m, "g"))
	next = &Late{boom}
	_, err = v.OpenFile("new", os.O_RDWR|os.O_CREATE, 0)
	require.ErrorIs(t, err, boom)
	require.Equal(t, "", read(t, m, "new"))
	require.EqualValues(t, 1, v.OpenFiles())
	require.NoError(t, f.Close())
	require.Zero(t, v.OpenFiles())
}

func TestFault(t *testing.T) {
	boom := errors.New("boom")
	var kinds []string
	v := NewFault(NewMem(), func(op Op) error {
		kinds = append(kinds, op.Kind.String())
		if op.Index == 2 {
			return boom
		}
		return nil
	})
	f, err := v.OpenFile("f", os.O_RDWR|os.O_CREATE, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("x"), 0)
	require.NoError(t, err)
	require.ErrorIs(t, f.Sync(), boom)
	require.NoError(t, f.Sync())
	require.NoError(t, f.Close())
	require.Equal(t, []string{"open", "write", "sync", "sync", "close"}, kinds)
	require.EqualValues(t, 5, v.Count())
}
