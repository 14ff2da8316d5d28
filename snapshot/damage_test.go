package snapshot

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"maps"
	"slices"
	"testing"

	"github.com/pulkdb/db/internal/crashtest"
	"github.com/pulkdb/db/internal/vfs"
	"github.com/pulkdb/db/log"
	"github.com/stretchr/testify/require"
)

func fixHeader(p []byte) {
	binary.LittleEndian.PutUint32(p[124:], crc32.Checksum(p[:124], castagnoli))
}

// twoSnapshots returns a file system with snapshot 1 and 2, and their slots.
func twoSnapshots(t testing.TB) (fs *vfs.Mem, older, newer []Slot) {
	fs = newFS(t)
	older, newer = randomSlots(20, 2, 1), randomSlots(20, 2, 2)
	require.NoError(t, write(fs, headerOf(1), older))
	require.NoError(t, write(fs, headerOf(2), newer))
	return fs, older, newer
}

// A chain is a directory with snapshots of which each builds on the one before.
type chain struct {
	fs    *vfs.Mem
	files []File
	slots [][]Slot // as composed
}

// newChain writes a base of 20 slots and then a difference per element of sizes.
func newChain(t testing.TB, sizes ...int) *chain {
	c := &chain{fs: newFS(t)}
	c.add(t, headerOf(1), randomSlots(20, 2, 1))
	for i, n := range sizes {
		h := headerOf(uint64(i + 2))
		h.Parent = c.files[i].Link
		c.add(t, h, randomSlots(n, 3, uint64(i+2)))
	}
	return c
}

func (c *chain) add(t testing.TB, h Header, slots []Slot) {
	f, err := writeFile(c.fs, h, slots)
	require.NoError(t, err)
	composed := map[log.PID]Slot{}
	if n := len(c.slots); n > 0 && h.Parent != (Link{}) {
		for _, s := range c.slots[n-1] {
			composed[s.PID] = s
		}
	}
	for _, s := range slots {
		composed[s.PID] = s
	}
	var all []Slot
	for _, pid := range slices.Sorted(maps.Keys(composed)) {
		all = append(all, composed[pid])
	}
	c.files, c.slots = append(c.files, f), append(c.slots, all)
}

// requireNewest requires that the i-th snapshot is what Load finds; -1: none.
func (c *chain) requireNewest(t *testing.T, i, warned int) {
	t.Helper()
	got, err := load(c.fs)
	require.NoError(t, err)
	require.Equal(t, warned, got.warned)
	require.Equal(t, i >= 0, got.found)
	if i >= 0 {
		require.Equal(t, c.files[i].Sequence, got.header.Sequence)
		require.Equal(t, c.files[:i+1], got.files)
		require.Equal(t, c.slots[i], got.slots)
	}
}

func TestDifferences(t *testing.T) {
	c := newChain(t, 5, 0, 9, 1)
	c.requireNewest(t, 4, 0)
	c.add(t, headerOf(6), randomSlots(3, 2, 9))
	got, err := load(c.fs)
	require.NoError(t, err)
	require.Equal(t, c.slots[5], got.slots, "a base stands alone")
	require.Len(t, got.files, 1)
}

// TestEveryDamage (S2): a file that is cut anywhere, goes on behind its end, or
// has a changed byte is never taken, nor is one that builds on it.
func TestEveryDamage(t *testing.T) {
	c := newChain(t, 6, 4)
	var damage crashtest.Damage
	for i, f := range c.files {
		whole := readAll(t, c.fs, f.Sequence)
		damaged := func(p []byte) {
			overwrite(t, c.fs, f.Sequence, p)
			c.requireNewest(t, i-1, len(c.files)-i)
		}
		for n := range whole {
			damage.Cut++
			damaged(whole[:n])
		}
		damaged(append(slices.Clone(whole), 0))
		for at := range whole {
			for _, mask := range []byte{1, 0x80, 0xff} {
				p := slices.Clone(whole)
				p[at] ^= mask
				damage.Flipped++
				damaged(p)
			}
		}
		require.NoError(t, c.fs.Remove(fileName(testDir, f.Sequence, suffix)))
		c.requireNewest(t, i-1, len(c.files)-i-1) // it is no longer there to be looked at
		overwrite(t, c.fs, f.Sequence, whole)
		c.requireNewest(t, len(c.files)-1, 0)
		damage.Files++
	}
	damage.Answers[0] = damage.Flipped + damage.Cut + damage.Files
	crashtest.ReportDamage(t, "snapshot", damage)
}

// TestParentOfAnotherLife: a difference is not composed with another snapshot of
// its parent's sequence.
func TestParentOfAnotherLife(t *testing.T) {
	c := newChain(t, 6, 4)
	for name, change := range map[string]func(h *Header){
		"incarnation": func(h *Header) { h.Incarnation++ },
		"contents":    func(h *Header) { h.Clock++ },
		"base":        func(h *Header) { h.Parent = Link{} },
	} {
		h := headerOf(2)
		h.Parent = c.files[0].Link
		change(&h)
		require.NoError(t, write(c.fs, h, randomSlots(6, 3, 2)), name)
		got, err := load(c.fs)
		require.NoError(t, err, name)
		require.EqualValues(t, 2, got.header.Sequence, name)
		require.Equal(t, 1, got.warned, name)
	}
}

// TestParentMustBeOlder: a parent that is the file itself, or newer, would be a
// circle.
func TestParentMustBeOlder(t *testing.T) {
	c := newChain(t)
	for sequence := uint64(2); sequence <= 3; sequence++ {
		h := headerOf(2)
		h.Parent = Link{Sequence: sequence, Incarnation: 4, Checksum: 1}
		require.NoError(t, write(c.fs, h, nil))
		c.requireNewest(t, 0, 1)
	}
}

func requireOlder(t *testing.T, fs vfs.FS, older []Slot) {
	t.Helper()
	got, err := load(fs)
	require.NoError(t, err)
	require.True(t, got.found)
	require.Equal(t, headerOf(1), got.header)
	require.Equal(t, older, got.slots)
	require.Equal(t, 1, got.warned)
}

func TestAllDamaged(t *testing.T) {
	fs, _, _ := twoSnapshots(t)
	require.True(t, fs.Corrupt(fileName(testDir, 1, suffix), 150, 0))
	require.True(t, fs.Corrupt(fileName(testDir, 2, suffix), 150, 0))
	got, err := load(fs)
	require.NoError(t, err)
	require.False(t, got.found)
	require.Equal(t, 2, got.warned)
}

// TestFramesOfAnotherFile (S2): whole frames of an older snapshot, with good
// checksums, do not pass in a newer one.
func TestFramesOfAnotherFile(t *testing.T) {
	fs, older, _ := twoSnapshots(t)
	one, two := readAll(t, fs, 1), readAll(t, fs, 2)
	overwrite(t, fs, 2, append(slices.Clone(two[:headerBytes]), one[headerBytes:]...))
	requireOlder(t, fs, older)
}

func bodyOf(file []byte) []byte { return file[headerBytes : len(file)-trailerBytes] }

// FuzzLoad loads a file whose body is arbitrary, with checksums made good, so
// that the decoder behind them is reached (S5).
func FuzzLoad(f *testing.F) {
	fs, _, _ := twoSnapshots(f)
	f.Add(bodyOf(readAll(f, fs, 2)))
	f.Add(bodyOf(readAll(f, newChain(f, 400).fs, 2)))
	f.Fuzz(func(t *testing.T, body []byte) {
		id := headerOf(1).Identity
		p := append(appendHeader(nil, id), body...)
		seed := binary.LittleEndian.Uint32(p[124:])
		footer := 0
		for at := headerBytes; at+frameBytes <= len(p); {
			frame, err := decodeFrame(p[at:])
			end := at + frameBytes + int(frame.stored)
			if err != nil || end > len(p) {
				break
			}
			binary.LittleEndian.PutUint32(p[at:], crc32.Update(seed, castagnoli, p[at+4:end]))
			footer, at = at, end
		}
		p = appendTrailer(p, int64(footer), seed)
		fs := newFS(t)
		overwrite(t, fs, 1, p)
		got, err := load(fs)
		if err != nil && !errors.Is(err, log.ErrVersion) {
			t.Fatal(err)
		}
		if got.found {
			for i := 1; i < len(got.slots); i++ {
				require.Less(t, got.slots[i-1].PID, got.slots[i].PID)
			}
		}
	})
}
