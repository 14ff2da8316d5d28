package log

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestRecordExample fixes the bytes that format.go speaks of.
func TestRecordExample(t *testing.T) {
	const lsn = 0x1080
	u := Update{PID: 3, Version: 2, Stamp: 9, Kind: KindAppend, Payload: []byte("hi")}
	p := make([]byte, recordHeaderBytes+UpdateSize(u.PID, u.Version, len(u.Payload)))
	putUpdate(p[recordHeaderBytes:], u)
	stampUpdate(p[recordHeaderBytes:], lsn+recordHeaderBytes, seedOf(1), u.Stamp)
	sealRecord(p, lsn, seedOf(1), recordData, 0x1040, 0, 0)
	want := strings.Join([]string{
		"fd629be6",         // crc
		"1f000000",         // size
		"01",               // kind: data
		"40000000",         // mark: 64 bytes back
		"4eadf749",         // crc
		"03",               // kind: append
		"0900000000000000", // stamp
		"02", "03", "02",   // length, pid, version
		"6869",
	}, "")
	require.Equal(t, want, hex.EncodeToString(p))
	h, err := decodeRecord(p, lsn, seedOf(1))
	require.NoError(t, err)
	require.Equal(t, recordHeader{size: len(p), kind: recordData, mark: 0x1040}, h)
	got, err := verifyUpdate(p[recordHeaderBytes:], lsn+recordHeaderBytes, seedOf(1))
	require.NoError(t, err)
	require.Equal(t, u, got)

	// Elsewhere, or of another life, the same bytes are nothing (L4).
	_, err = decodeRecord(p, lsn+1, seedOf(1))
	require.ErrorIs(t, err, errChecksum)
	_, err = decodeRecord(p, lsn, seedOf(2))
	require.ErrorIs(t, err, errChecksum)
	_, err = verifyUpdate(p[recordHeaderBytes:], lsn+recordHeaderBytes, seedOf(2))
	require.ErrorIs(t, err, errChecksum)
	for i := range p {
		for bit := range 8 {
			p[i] ^= 1 << bit
			_, err := decodeRecord(p, lsn, seedOf(1))
			require.Error(t, err)
			p[i] ^= 1 << bit
		}
	}
}

func TestUpdateRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		u := Update{
			PID:        PID(rapid.Uint64().Draw(t, "pid")),
			Version:    rapid.Uint64().Draw(t, "version"),
			Stamp:      rapid.Uint64().Draw(t, "stamp"),
			Kind:       Kind(rapid.IntRange(1, int(kindLast)).Draw(t, "kind")),
			Compressed: rapid.Bool().Draw(t, "compressed"),
			Payload:    rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "payload"),
		}
		p := make([]byte, UpdateSize(u.PID, u.Version, len(u.Payload)))
		require.Equal(t, len(p), putUpdate(p, u))
		stampUpdate(p, 77, 5, u.Stamp)
		require.Equal(t, len(p), updateBytes(p))
		got, err := verifyUpdate(p, 77, 5)
		require.NoError(t, err)
		require.Equal(t, u, got)
	})
}

func TestOverhead(t *testing.T) {
	require.LessOrEqual(t, recordHeaderBytes, 14)
	require.LessOrEqual(t, UpdateSize(1<<20, 1000, 120)-120, 22)
}

func TestHeaders(t *testing.T) {
	h := segmentHeader{storeID: [16]byte{1, 2}, incarnation: 3, base: 4096, prevBase: 1, prevEnd: 2, mark: 5, segmentBytes: 4096, stream: Survivors}
	p := appendSegmentHeader(nil, h)
	require.Len(t, p, headerBytes)
	got, err := decodeSegmentHeader(p)
	require.NoError(t, err)
	require.Equal(t, h, got)
	h.required = 4
	_, err = decodeSegmentHeader(appendSegmentHeader(nil, h))
	require.ErrorIs(t, err, ErrVersion)
	h.required, h.optional = 0, 4
	_, err = decodeSegmentHeader(appendSegmentHeader(nil, h))
	require.NoError(t, err)
	_, err = decodeSegmentHeader(make([]byte, headerBytes))
	require.ErrorIs(t, err, errUnwritten)

	id := identity{storeID: [16]byte{9}, incarnation: 2, segmentBytes: 4096, nextSegment: 7}
	gotID, err := decodeIdentity(appendIdentity(nil, id))
	require.NoError(t, err)
	require.Equal(t, id, gotID)
	id.required = 1
	_, err = decodeIdentity(appendIdentity(nil, id))
	require.ErrorIs(t, err, ErrVersion)
}

func FuzzDecodeRecord(f *testing.F) {
	u := Update{PID: 3, Version: 2, Kind: KindAppend, Payload: []byte("hi")}
	p := make([]byte, recordHeaderBytes+UpdateSize(u.PID, u.Version, len(u.Payload)))
	putUpdate(p[recordHeaderBytes:], u)
	sealRecord(p, 100, 1, recordData, 0, 0, 0)
	f.Add(p)
	f.Add(make([]byte, 40))
	f.Fuzz(func(t *testing.T, p []byte) {
		if h, err := decodeRecord(p, 100, 1); err == nil {
			require.LessOrEqual(t, h.size, len(p))
		}
		// As if the checksum were right.
		for off := 0; off < len(p) && !atEnd(p[off:]); {
			u, n, err := decodeUpdate(p[off:])
			if err != nil {
				break
			}
			require.LessOrEqual(t, len(u.Payload), n)
			require.LessOrEqual(t, off+n, len(p))
			off += n
		}
		_, _ = verifyUpdate(p, 100, 1)
		_, _ = decodeSegmentHeader(p)
		_, _ = decodeIdentity(p)
	})
}
