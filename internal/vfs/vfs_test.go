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
