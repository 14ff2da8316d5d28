package snapshot

import (
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/pulkdb/db/log"
	"github.com/stretchr/testify/require"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	p, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	require.NoError(t, err)
	return p
}

// TestSlotExample fixes the example in format.go.
func TestSlotExample(t *testing.T) {
	slots := []Slot{
		{PID: 5, State: Used, Version: 3, Stamp: 7, Positions: []log.Position{{LSN: 4096, Size: 100}, {LSN: 8192, Size: 50}}},
		{PID: 7, State: Free, Version: 9, Stamp: 6, Flags: 1},
	}
	require.Equal(t, "5 used v3 stamp 7 flags 0x0 [0x1000+100 0x2000+50]", slots[0].String())
	require.Equal(t, "7 free v9 stamp 6 flags 0x1 []", slots[1].String())
	c := slotCoder{pid: 5}
	var p []byte
	for i := range slots {
		p = c.appendSlot(p, &slots[i])
	}
	require.Equal(t, unhex(t, "00 21 03 0e 80 40 64 80 40 32   02 06 09 01 01"), p)
}

func TestSlotRoundTrip(t *testing.T) {
	many := make([]log.Position, 100)
	for i := range many {
		many[i] = log.Position{LSN: log.LSN(i * 1000), Size: uint32(i)}
	}
	slots := []Slot{
		{PID: 0, State: Used, Positions: []log.Position{{}}},
		{PID: 1, State: Used, Version: math.MaxUint64, Stamp: math.MaxUint64, Flags: 255,
			Positions: []log.Position{{LSN: math.MaxUint64, Size: math.MaxUint32}}},
		{PID: 2, State: Used, Stamp: 1, Positions: many},
		{PID: 3, State: Used, Positions: many[:14]},
		{PID: 4, State: Used, Positions: many[:15]},
		{PID: 5, State: Free, Version: 1 << 40, Stamp: 1 << 63},
		{PID: math.MaxUint64, State: Free, Positions: many[1:2]},
	}
	c := slotCoder{}
	var p []byte
	for i := range slots {
		p = c.appendSlot(p, &slots[i])
	}
	c = slotCoder{}
	var s Slot
	for _, want := range slots {
		n, err := c.decodeSlot(p, &s)
		require.NoError(t, err)
		p = p[n:]
		if len(s.Positions) == 0 {
			s.Positions = nil
		}
		require.Equal(t, want, s)
	}
	require.Empty(t, p)
}

func TestDecodeSlotRefuses(t *testing.T) {
	for name, p := range map[string]string{
		"nothing":             "",
		"state 0":             "00 10 01 00 02 01",
		"state 3":             "00 13 01 00 02 01",
		"unknown tag bit":     "00 19 01 00 02 01",
		"flags bit, no flags": "00 15 01 00 00 02 01",
		"used, no position":   "00 01 01 00",
		"no position there":   "00 11 01 00",
		"size above 32 bits":  "00 11 01 00 02 ffffffffffff01",
		"count of 3 as many":  "00 f1 01 00 03 0201 0201 0201",
		"huge count":          "00 f1 01 00 ffffffffff7f",
		"number too long":     "00 11 8000 00 02 01",
		"number without end":  "00 11 ffffffffffffffffffffff",
	} {
		var s Slot
		_, err := new(slotCoder).decodeSlot(unhex(t, p), &s)
		require.ErrorIs(t, err, errValue, name)
	}
}

func TestFooterRoundTrip(t *testing.T) {
	for _, h := range []Header{{}, exampleHeader()} {
		h.Identity = Identity{}
		want := footer{frames: 3, slots: 1 << 40, header: h}
		p := appendFooter(nil, want)
		got, err := decodeFooter(p)
		require.NoError(t, err)
		require.Equal(t, want, got)
		for n := range p {
			_, err := decodeFooter(p[:n])
			require.ErrorIs(t, err, errValue)
		}
		_, err = decodeFooter(append(slices.Clone(p), 0))
		require.ErrorIs(t, err, errValue)
	}
}

func TestHugeCountsAreRefused(t *testing.T) {
	p := unhex(t, "00 00 00 00 00 00 00 00 ffffffffffffffff7f")
	_, err := decodeFooter(p)
	require.ErrorIs(t, err, errValue)
	p = unhex(t, "00 00 00 00 00 00 00 00 01 01 01 01 ffffffff7f")
	_, err = decodeFooter(p)
	require.ErrorIs(t, err, errValue)
}

func TestUnknownVersionIsNotDamage(t *testing.T) {
	for name, change := range map[string]func(p []byte){
		"version":  func(p []byte) { p[8] = 3 },
		"required": func(p []byte) { p[40] = 1 },
		"codec":    func(p []byte) { p[56] = 9 },
		"key":      func(p []byte) { p[60] = 1 },
	} {
		p := appendHeader(nil, Identity{Sequence: 1})
		change(p)
		_, _, err := decodeHeader(p)
		require.ErrorIs(t, err, errChecksum, name)
		binary.LittleEndian.PutUint32(p[124:], crc32.Checksum(p[:124], castagnoli))
		_, _, err = decodeHeader(p)
		require.ErrorIs(t, err, log.ErrVersion, name)
	}
	p := appendHeader(nil, Identity{})
	p[48] = 1 // an unknown optional feature
	binary.LittleEndian.PutUint32(p[124:], crc32.Checksum(p[:124], castagnoli))
	_, _, err := decodeHeader(p)
	require.NoError(t, err)
}

func FuzzDecodeSlot(f *testing.F) {
	f.Add([]byte{0, 0x21, 3, 14, 0x80, 0x40, 100, 0x80, 0x40, 50})
	f.Fuzz(func(t *testing.T, p []byte) {
		var s Slot
		n, err := new(slotCoder).decodeSlot(p, &s)
		if err != nil {
			return
		}
		require.LessOrEqual(t, n, len(p))
		require.Equal(t, p[:n], new(slotCoder).appendSlot(nil, &s), "one encoding per slot")
	})
}

func FuzzDecodeFooter(f *testing.F) {
	f.Add(appendFooter(nil, footer{1, 2, exampleHeader()}))
	f.Fuzz(func(t *testing.T, p []byte) {
		if got, err := decodeFooter(p); err == nil {
			require.Equal(t, p, appendFooter(nil, got))
		}
	})
}
