package workload

import (
	"bytes"
	"os"
	"strconv"
)

// ResidentBytes returns the resident memory of this process.
func ResidentBytes() int64 {
	statm, err := os.ReadFile("/proc/self/statm")
	fields := bytes.Fields(statm)
	if err != nil || len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(string(fields[1]), 10, 64)
	return pages * int64(os.Getpagesize())
}

// PeakBytes returns the largest resident memory since ResetPeak.
func PeakBytes() int64 { return numberIn("/proc/self/status", "VmHWM:") << 10 }

// ResetPeak makes PeakBytes begin anew. Where that is refused, PeakBytes tells of
// the whole life of the process.
func ResetPeak() { _ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) }

// WrittenBytes returns what this process has given to calls that write, so far. What
// it wrote through mappings is not in it. (The system also counts pages when they
// become dirty, as write_bytes; but a page can be some MiB of a file, of which a
// small write makes all dirty by that count, and not on disk.)
func WrittenBytes() int64 { return numberIn("/proc/self/io", "wchar:") }

// numberIn returns the number behind name in a file, or 0.
func numberIn(file, name string) int64 {
	text, _ := os.ReadFile(file)
	_, rest, _ := bytes.Cut(text, []byte(name))
	fields := bytes.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	n, _ := strconv.ParseInt(string(fields[0]), 10, 64)
	return n
}
