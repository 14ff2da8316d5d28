package log

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/vfs"
)

// requireDecodeError fails unless err is one that decoders give.
func requireDecodeError(t *testing.T, err error) {
	t.Helper()
	for _, known := range []error{errShort, errChecksum, errKind, errLayout, errMagic, errUnwritten, ErrVersion} {
		if errors.Is(err, known) {
			return
		}
	}
	t.Fatalf("undocumented: %v", err)
}

// sealed returns p as it is and with a good checksum over all but its end, so
// that what lies behind the check is reached.
func sealed(p []byte, magic [8]byte, size int) [][]byte {
	if len(p) < size {
		return [][]byte{p}
	}
	good := slices.Clone(p[:size])
	copy(good, magic[:])
	binary.LittleEndian.PutUint32(good[size-4:], crc32.Checksum(good[:size-4], castagnoli))
	return [][]byte{p, good}
}

func FuzzDecodeSegmentHeader(f *testing.F) {
	f.Add(appendSegmentHeader(nil, segmentHeader{storeID: [16]byte{1, 2}, incarnation: 3, base: 4096, prevBase: 1, prevEnd: 2, mark: 5, segmentBytes: 4096, stream: Survivors}))
	f.Add(appendSegmentHeader(nil, segmentHeader{incarnation: 1, base: 1 << 40, segmentBytes: 16 << 20, required: 1}))
	f.Add(make([]byte, headerBytes))
	f.Fuzz(func(t *testing.T, p []byte) {
		for _, p := range sealed(p, segmentMagic, headerBytes) {
			h, err := decodeSegmentHeader(p)
			if err != nil {
				requireDecodeError(t, err)
				continue
			}
			again, err := decodeSegmentHeader(appendSegmentHeader(nil, h))
			require.NoError(t, err)
			require.Equal(t, h, again)
		}
	})
}

func FuzzDecodeIdentity(f *testing.F) {
	f.Add(appendIdentity(nil, identity{storeID: [16]byte{9}, incarnation: 2, segmentBytes: 4096, nextSegment: 7}))
	f.Add(appendIdentity(nil, identity{segmentBytes: 1, nextSegment: 1 << 63}))
	f.Fuzz(func(t *testing.T, p []byte) {
		for _, p := range sealed(p, storeMagic, identityBytes) {
			id, err := decodeIdentity(p)
			if err != nil {
				requireDecodeError(t, err)
				continue
			}
			again, err := decodeIdentity(appendIdentity(nil, id))
			require.NoError(t, err)
			require.Equal(t, id, again)
		}
	})
}

func FuzzDecodeUpdate(f *testing.F) {
	for i, kind := range []Kind{KindAllocate, KindReplace, KindAppend, KindConsolidate, KindFree} {
		u := Update{PID: 3 << (9 * i), Version: 2 << (7 * i), Stamp: 5, Kind: kind, Compressed: i%2 == 1, Payload: []byte("payload")[:i]}
		p := make([]byte, UpdateSize(u.PID, u.Version, len(u.Payload)))
		putUpdate(p, u)
		stampUpdate(p, 100, 1, u.Stamp)
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		if _, err := verifyUpdate(p, 100, 1); err != nil {
			requireDecodeError(t, err)
		}
		u, n, err := decodeUpdate(p)
		if err != nil {
			requireDecodeError(t, err)
			return
		}
		// With a good checksum it is an update, and says the same written anew.
		whole := slices.Clone(p[:n])
		stampUpdate(whole, 100, 1, u.Stamp)
		verified, err := verifyUpdate(whole, 100, 1)
		require.NoError(t, err)
		require.Equal(t, u, verified)
		again := make([]byte, UpdateSize(u.PID, u.Version, len(u.Payload)))
		putUpdate(again, u)
		stampUpdate(again, 100, 1, u.Stamp)
		require.LessOrEqual(t, len(again), n)
		verified, err = verifyUpdate(again, 100, 1)
		require.NoError(t, err)
		require.Equal(t, u, verified)
	})
}

// sealRecords gives the records that body consists of good checksums, as far as
// their sizes fit, and their updates too.
func sealRecords(body []byte, base LSN, s seed) {
	for off := 0; off+recordHeaderBytes <= len(body); {
		size := binary.LittleEndian.Uint32(body[off+recordOffSize:])
		h := recordHeader{kind: recordKind(body[off+recordOffKind])}
		if h.kind == 0 || h.kind > recordMark || uint64(size) > uint64(len(body)-off) || int(size) < h.headerBytes() {
			return
		}
		lsn, record := base+LSN(off), body[off:off+int(size)]
		for at := h.headerBytes(); at < len(record) && !atEnd(record[at:]); {
			u, n, err := decodeUpdate(record[at:])
			if err != nil {
				break
			}
			stampUpdate(record[at:at+n], lsn+LSN(at), s, u.Stamp)
			at += n
		}
		binary.LittleEndian.PutUint32(record[recordOffCRC:], s.checksum(lsn, record[recordOffSize:]))
		off += int(size)
	}
}

// exampleBody returns records as a segment at base has them: data, an aborted
// one, a mark, and a group of two parts.
func exampleBody(base LSN, s seed) []byte {
	var body []byte
	add := func(kind recordKind, durable, first LSN, index uint32, updates ...Update) {
		header := recordHeader{kind: kind}.headerBytes()
		p := make([]byte, header, 300)
		lsn := base + LSN(len(body))
		for _, u := range updates {
			n := len(p)
			p = p[:n+UpdateSize(u.PID, u.Version, len(u.Payload))]
			putUpdate(p[n:], u)
			stampUpdate(p[n:], lsn+LSN(n), s, u.Stamp)
		}
		sealRecord(p, lsn, s, kind, durable, first, index)
		body = append(body, p...)
	}
	add(recordData, base, 0, 0, testUpdate(1), testUpdate(2))
	add(recordAborted, 0, 0, 0, testUpdate(3))
	first := base + LSN(len(body))
	add(recordGroupPart, base, first, 0, testUpdate(4))
	add(recordData, 0, 0, 0, Update{PID: 4, Version: 9, Stamp: 1, Kind: KindFree})
	add(recordGroupLast, 0, first, 1, testUpdate(5), testUpdate(6))
	add(recordMark, base+LSN(len(body)), 0, 0)
	return body
}

// FuzzReplay replays two segments whose records are arbitrary, with checksums
// made good: what is delivered can be read by its position, and is delivered
// again after more was written; all else is damage. A Salvager finds it too, and
// maybe more.
func FuzzReplay(f *testing.F) {
	const one, two = LSN(4096), LSN(8192)
	good := exampleBody(one+headerBytes, seedOf(1))
	f.Add(good, exampleBody(two+headerBytes, seedOf(1)), false)
	f.Add(good[:len(good)-3], []byte{}, true)
	f.Add([]byte{}, make([]byte, 100), false)
	f.Fuzz(func(t *testing.T, a, b []byte, closed bool) {
		if len(a) > 2000 || len(b) > 2000 {
			return
		}
		fs := vfs.NewMem()
		require.NoError(t, fs.MkdirAll("d"))
		id := identity{storeID: [16]byte{7}, incarnation: 1, segmentBytes: 4096, nextSegment: 3}
		writeFile(t, fs, identityName, appendIdentity(nil, id))
		h := segmentHeader{storeID: id.storeID, incarnation: 1, base: one, segmentBytes: 4096}
		for _, body := range [][]byte{a, b} {
			body = slices.Clone(body)
			sealRecords(body, h.base+headerBytes, seedOf(1))
			writeFile(t, fs, segmentName(h.base), append(appendSegmentHeader(nil, h), body...))
			h.prevBase, h.prevEnd, h.base = h.base, h.base+headerBytes+LSN(len(body)), two
			if closed {
				h.mark = h.prevEnd
			}
		}
		found := salvageAll(t, fs)
		var first []delivered
		l, err := Open(tiny(fs))
		require.NoError(t, err)
		_, err = l.Replay(Marks{}, collect(&first))
		if err != nil {
			var corrupt *CorruptError
			require.ErrorAs(t, err, &corrupt)
			require.NotEmpty(t, corrupt.File)
			require.NoError(t, l.Close())
			return
		}
		require.NoError(t, l.Start())
		payload := 0
		for _, d := range first {
			u, _, err := l.Read(d.Position, nil)
			require.NoError(t, err)
			u.Stamp = d.Stamp // that of a group's last part
			require.Equal(t, d.Update, u)
			require.True(t, found[d.Position], "not salvaged: %v", d)
			payload += len(d.Payload)
		}
		require.LessOrEqual(t, payload, len(a)+len(b), "something is delivered twice")
		p, _ := write(t, l, Fresh, testUpdate(9))
		require.NoError(t, l.Close())
		l, second := open(t, tiny(fs))
		require.Equal(t, append(first, delivered{testUpdate(9), p}), second)
		require.NoError(t, l.Close())
	})
}

// salvageAll returns where a Salvager finds updates, each of which it can read.
func salvageAll(t testing.TB, fs vfs.FS) map[Position]bool {
	s, err := OpenSalvager(fs, "d")
	require.NoError(t, err)
	found := map[Position]bool{}
	require.NoError(t, s.Scan(func(u Salvaged) error {
		require.False(t, found[u.Position], "found twice: %v", u)
		found[u.Position] = true
		return nil
	}))
	for p := range found {
		_, _, err := s.Read(p, nil)
		require.NoError(t, err)
	}
	require.NoError(t, s.Close())
	return found
}

func writeFile(t testing.TB, fs vfs.FS, name string, p []byte) {
	t.Helper()
	file, err := fs.OpenFile("d/"+name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o666)
	require.NoError(t, err)
	_, err = file.WriteAt(p, 0)
	require.NoError(t, err)
	require.NoError(t, file.Close())
}
