package stream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"weir/schemas/usage"
)

// A segment file is a header and frames, all little-endian:
//
//	header  magic 8 | version u32 | base u64 | crc32c u32 of the bytes before
//	frame   length u32 of the payload | crc32c u32 of the payload | payload
//
// The payload is a usage.Record in its own versioned format. A change of the
// header or of the frame takes the next segmentVersion; a reader keeps reading
// the version before it until no spool can still hold one.
const (
	segmentMagic     = "weirspl\n"
	segmentVersion   = 1
	segmentSuffix    = ".spool"
	headerBytes      = 24
	frameHeaderBytes = 8

	// maxRecordBytes bounds a payload: a record holds names, tags and
	// numbers, some 400 bytes; a length beyond this is no length.
	maxRecordBytes = 64 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Pos is a place in the spool: the count of frame bytes before it since the
// spool was made. It only grows, also over restarts and deleted segments.
type Pos int64

// segment is one file of the spool. base and file never change; the rest is
// guarded by Spool.mu.
type segment struct {
	base Pos // position of its first frame
	file *os.File

	size        int64 // bytes of whole frames
	records     int64 // records the log gets, that is all but intents
	openIntents int   // intents in this segment without a result anywhere
	unsettled   int   // chunks of this segment in Spool.chunks
	offsets     []partOffset
	firstMs     int64 // time of the first record, Unix milliseconds
	lastMs      int64 // time of the last record, Unix milliseconds
}

func (g *segment) end() Pos { return g.base + Pos(g.size) }

// partOffset is the greatest acknowledged offset of one partition, and the
// xxHash64 of the record there, by which it is known again.
type partOffset struct {
	Part   int32  `json:"part"`
	Offset int64  `json:"offset"`
	Hash   uint64 `json:"hash"`
}

// raise notes an acknowledged offset. Partitions are few, so a search by
// walking is cheaper than a map.
func raise(offsets []partOffset, o partOffset) []partOffset {
	for i := range offsets {
		if offsets[i].Part == o.Part {
			if o.Offset > offsets[i].Offset {
				offsets[i] = o
			}
			return offsets
		}
	}
	return append(offsets, o)
}

func segmentPath(dir string, base Pos) string {
	return filepath.Join(dir, fmt.Sprintf("%020d%s", base, segmentSuffix))
}

// listSegments returns the bases of the segment files in dir, in order.
func listSegments(dir string) ([]Pos, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot list the spool: %w", err)
	}
	var bases []Pos
	for _, e := range entries {
		name, isSegment := strings.CutSuffix(e.Name(), segmentSuffix)
		if !isSegment {
			continue
		}
		base, err := strconv.ParseInt(name, 10, 64)
		if err != nil || segmentPath(dir, Pos(base)) != filepath.Join(dir, e.Name()) {
			return nil, fmt.Errorf("cannot list the spool: %s is not the name of a segment", e.Name())
		}
		bases = append(bases, Pos(base))
	}
	slices.Sort(bases)
	return bases, nil
}

func segmentHeader(base Pos) []byte {
	b := append(make([]byte, 0, headerBytes), segmentMagic...)
	b = binary.LittleEndian.AppendUint32(b, segmentVersion)
	b = binary.LittleEndian.AppendUint64(b, uint64(base))
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// errTornHeader says that a file ends or is blank within its header: the
// process died while it made the segment, before any frame.
var errTornHeader = errors.New("the segment's header is torn")

// checkHeader verifies the header at the start of data.
func checkHeader(data []byte, base Pos) error {
	if len(data) < headerBytes || len(data) == headerBytes && string(data) != string(segmentHeader(base)) {
		return errTornHeader
	}
	version := binary.LittleEndian.Uint32(data[len(segmentMagic):])
	switch {
	case string(data[:len(segmentMagic)]) != segmentMagic:
		return errors.New("not a spool segment")
	case version != segmentVersion:
		return fmt.Errorf("spool format %d, this program reads format %d", version, segmentVersion)
	case string(data[:headerBytes]) != string(segmentHeader(base)):
		return errors.New("the segment's header is damaged")
	}
	return nil
}

// appendFrame appends r as one frame.
func appendFrame(b []byte, r *usage.Record) []byte {
	start := len(b)
	b = append(b, make([]byte, frameHeaderBytes)...)
	b = usage.AppendRecord(b, r)
	payload := b[start+frameHeaderBytes:]
	binary.LittleEndian.PutUint32(b[start:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(b[start+4:], crc32.Checksum(payload, castagnoli))
	return b
}

// frameAt reads the frame at the start of b. Without a whole, intact frame
// there ok is false; cut tells that it may be intact but b ends too early.
func frameAt(b []byte) (payload []byte, ok, cut bool) {
	if len(b) < frameHeaderBytes {
		return nil, false, true
	}
	n := int(binary.LittleEndian.Uint32(b))
	if n == 0 || n > maxRecordBytes {
		return nil, false, false
	}
	if len(b) < frameHeaderBytes+n {
		return nil, false, true
	}
	payload = b[frameHeaderBytes : frameHeaderBytes+n]
	return payload, crc32.Checksum(payload, castagnoli) == binary.LittleEndian.Uint32(b[4:]), false
}

// scanFrames calls fn with each payload of frames and the offset behind it,
// and returns the length of the intact part. What follows the intact part is a
// torn tail only when no intact record comes after it: a write that a crash
// cut off is the last one, while a bad frame before good ones is damage to
// records that were durable.
func scanFrames(frames []byte, fn func(payload []byte, end int64) error) (intact int64, torn bool, err error) {
	for at := 0; at < len(frames); {
		payload, ok, _ := frameAt(frames[at:])
		if !ok {
			return int64(at), !recordAfter(frames[at:]), nil
		}
		at += frameHeaderBytes + len(payload)
		if err := fn(payload, int64(at)); err != nil {
			return int64(at), false, err
		}
	}
	return int64(len(frames)), false, nil
}

// recordAfter tells whether an intact record starts anywhere behind the first
// byte of b.
func recordAfter(b []byte) bool {
	for at := 1; at+frameHeaderBytes < len(b); at++ {
		if payload, ok, _ := frameAt(b[at:]); ok {
			if _, err := usage.ParseRecord(payload); err == nil {
				return true
			}
		}
	}
	return false
}

// datasync forces the file's bytes and length to the disk.
func datasync(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	controlErr := conn.Control(func(fd uintptr) {
		for {
			if err = syscall.Fdatasync(int(fd)); err != syscall.EINTR {
				return
			}
		}
	})
	return errors.Join(controlErr, err)
}

// syncDir makes created, renamed and removed names in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
