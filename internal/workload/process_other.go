//go:build !linux

package workload

// What the process takes and writes is not known here.
func ResidentBytes() int64 { return 0 }
func PeakBytes() int64     { return 0 }
func ResetPeak()           {}
func WrittenBytes() int64  { return 0 }
