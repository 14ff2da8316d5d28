package snapshot

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/pulkdb/db/log"
	"github.com/stretchr/testify/require"
)

// requireDecodeError fails unless err is one that decoders give.
func requireDecodeError(t *testing.T, err error) {
	t.Helper()
	for _, known := range []error{errMagic, errChecksum, errShort, errValue, errTail, errFrame, log.ErrVersion} {
		if errors.Is(err, known) {
			return
		}
	}
	t.Fatalf("undocumented: %v", err)
}

func FuzzDecodeHeader(f *testing.F) {
	id := exampleHeader().Identity
	f.Add(appendHeader(nil, id))
	id.Parent = Link{Sequence: 1 << 60, Incarnation: 5, Checksum: 77}
	f.Add(appendHeader(nil, id))
	f.Fuzz(func(t *testing.T, p []byte) {
		_, _, err := decodeHeader(p)
		if err != nil {
			requireDecodeError(t, err)
		}
		if len(p) < headerBytes {
			return
		}
		p = slices.Clone(p[:headerBytes])
		copy(p, magic[:])
		fixHeader(p)
		id, _, err := decodeHeader(p)
		if err != nil {
			requireDecodeError(t, err)
			return
		}
		again, _, err := decodeHeader(appendHeader(nil, id))
		require.NoError(t, err)
		require.Equal(t, id, again)
	})
}

// FuzzDecodeFrame decodes a frame's header, and the payload behind it as the
// frame says it is, with a good checksum.
func FuzzDecodeFrame(f *testing.F) {
	fs, _, _ := twoSnapshots(f)
	f.Add(bodyOf(readAll(f, fs, 2)))
	body := bodyOf(readAll(f, newChain(f, 400).fs, 2))
	f.Add(body)
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) < frameBytes {
			return
		}
		frame, err := decodeFrame(p)
		if err != nil {
			requireDecodeError(t, err)
			return
		}
		if uint64(len(p)-frameBytes) < uint64(frame.stored) {
			return
		}
		p = slices.Clone(p[:frameBytes+int(frame.stored)])
		putFrame(p, frame, 5)
		require.NoError(t, checkFrame(p, 5))
		again, err := decodeFrame(p)
		require.NoError(t, err)
		require.Equal(t, frame, again)
		var d frameDecoder
		defer d.close()
		raw, err := d.decompress(frame, p[frameBytes:])
		if err != nil {
			return
		}
		require.Len(t, raw, int(frame.raw))
		n, last := uint32(0), frame.first
		err = d.deliver(frame, raw, func(s Slot) error {
			require.True(t, n == 0 && s.PID == frame.first || s.PID > last, "order of PIDs")
			n, last = n+1, s.PID
			return nil
		})
		if err != nil {
			requireDecodeError(t, err)
			return
		}
		require.Equal(t, frame.count, n)
	})
}

func FuzzDecodeTrailer(f *testing.F) {
	f.Add(appendTrailer(nil, 4096, 5))
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) < trailerBytes {
			return
		}
		p = slices.Clone(p[:trailerBytes])
		if _, err := decodeTrailer(p, 5); err != nil {
			requireDecodeError(t, err)
		}
		good := appendTrailer(nil, int64(binary.LittleEndian.Uint64(p)>>1), 5)
		footer, err := decodeTrailer(good, 5)
		if err != nil {
			requireDecodeError(t, err)
			return
		}
		require.Equal(t, good, appendTrailer(nil, footer, 5))
	})
}
