package snapshot

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"slices"
	"testing"

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

// TestEveryTruncation (S2): a file cut anywhere is never taken.
func TestEveryTruncation(t *testing.T) {
	fs, older, _ := twoSnapshots(t)
	whole := readAll(t, fs, 2)
	for n := range whole {
		overwrite(t, fs, 2, whole[:n])
		requireOlder(t, fs, older)
	}
	overwrite(t, fs, 2, append(slices.Clone(whole), 0))
	requireOlder(t, fs, older)
}

// TestEveryFlippedBit (S2).
func TestEveryFlippedBit(t *testing.T) {
	fs, older, _ := twoSnapshots(t)
	whole := readAll(t, fs, 2)
	for i := range whole {
		for _, mask := range []byte{1, 0x80, 0xff} {
			p := slices.Clone(whole)
			p[i] ^= mask
			overwrite(t, fs, 2, p)
			requireOlder(t, fs, older)
		}
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

// FuzzLoad loads a file whose body is arbitrary, with checksums made good, so
// that the decoder behind them is reached (S5).
func FuzzLoad(f *testing.F) {
	fs, _, _ := twoSnapshots(f)
	f.Add(readAll(f, fs, 2)[headerBytes:])
	f.Fuzz(func(t *testing.T, body []byte) {
		id := headerOf(1).Identity
		p := append(appendHeader(nil, id), body...)
		seed := binary.LittleEndian.Uint32(p[124:])
		for at := headerBytes; at+frameBytes <= len(p); {
			frame, err := decodeFrame(p[at:])
			end := at + frameBytes + int(frame.stored)
			if err != nil || end > len(p) {
				break
			}
			binary.LittleEndian.PutUint32(p[at:], crc32.Update(seed, castagnoli, p[at+4:end]))
			at = end
		}
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
