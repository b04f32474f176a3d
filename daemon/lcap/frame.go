package lcap

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Operations of frames.
const (
	FramePeerID byte = 1 // payload is the sender's identity
	FrameData   byte = 2 // payload is one message
	FrameClose  byte = 3 // never sent; has no payload, whatever its length says
)

// ProtoV3 is the protocol number of LCAP V3 in DATA frames.
const ProtoV3 int32 = 10

// MaxPeerIDFrame is the largest payload of a PEERID frame in bytes.
const MaxPeerIDFrame = 50

// FrameHeaderSize is the size of a frame without its payload:
//
//	offset  size  field
//	     0     1  check byte, FF
//	     1     1  operation
//	     2     8  length of the payload, signed
//	    10     4  protocol number, signed; 0 in PEERID frames
const FrameHeaderSize = 14

const checkByte = 0xFF

// A Frame is one unit of the stream between two peers (lcap-v3.md 2.2).
type Frame struct {
	Op      byte
	Proto   int32
	Payload []byte
}

// A FrameHeader is a frame whose payload has not been read.
type FrameHeader struct {
	Op     byte
	Proto  int32
	Length int64 // bytes of payload to read; 0 for operations without payload
}

// AppendFrame writes f.
func AppendFrame(dst []byte, f Frame) []byte {
	dst = AppendFrameHeader(dst, FrameHeader{Op: f.Op, Proto: f.Proto, Length: int64(len(f.Payload))})
	return append(dst, f.Payload...)
}

// AppendFrameHeader writes the header of a frame; h.Length bytes of payload have to follow.
func AppendFrameHeader(dst []byte, h FrameHeader) []byte {
	dst = append(dst, checkByte, h.Op)
	dst = binary.BigEndian.AppendUint64(dst, uint64(h.Length))
	return binary.BigEndian.AppendUint32(dst, uint32(h.Proto))
}

// A FrameError says where and why a stream cannot be read any further. It wraps
// [io.ErrUnexpectedEOF] when the input ended inside a frame.
type FrameError struct {
	Offset int64  // of the frame in the stream
	Msg    string // what is wrong with it
	Err    error  // of the source, if that broke
}

func (e *FrameError) Error() string {
	s := fmt.Sprintf("frame at offset %d: %s", e.Offset, e.Msg)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *FrameError) Unwrap() error { return e.Err }

// A FrameReader takes a stream apart. It belongs to one goroutine. After an error it must not
// be used again.
type FrameReader struct {
	// AllowUnknown makes frames with an unknown operation count as frames without
	// payload instead of as an error (lcap-v3.md 2.3).
	AllowUnknown bool

	r      *bufio.Reader
	max    int64
	offset int64 // bytes consumed
	start  int64 // offset of the current frame
	left   int64 // bytes of the current payload not yet read
}

// NewFrameReader returns a reader of r that refuses DATA frames of more than max bytes.
func NewFrameReader(r io.Reader, max int64) *FrameReader {
	return &FrameReader{r: bufio.NewReaderSize(r, 16<<10), max: max}
}

// Next returns the next frame with its payload, or io.EOF where the stream ends between
// frames, or a [*FrameError]. Memory grows with the bytes that arrive, not with the length
// announced.
func (f *FrameReader) Next() (Frame, error) {
	h, err := f.NextHeader()
	if err != nil {
		return Frame{}, err
	}
	payload, err := f.Payload(h)
	return Frame{Op: h.Op, Proto: h.Proto, Payload: payload}, err
}

// NextHeader skips what is left of the current frame and returns the header of the next. Its
// payload can then be taken with Read or Payload.
func (f *FrameReader) NextHeader() (FrameHeader, error) {
	if f.left > 0 {
		if _, err := io.Copy(io.Discard, f); err != nil {
			return FrameHeader{}, err
		}
	}
	f.start = f.offset
	var b [FrameHeaderSize]byte
	n, err := io.ReadFull(f.r, b[:])
	f.offset += int64(n)
	switch {
	case err == io.EOF:
		return FrameHeader{}, io.EOF
	case errors.Is(err, io.ErrUnexpectedEOF):
		return FrameHeader{}, f.fault("input ends inside the header", err)
	case err != nil:
		return FrameHeader{}, f.fault("read header", err)
	}
	h := FrameHeader{
		Op:     b[1],
		Length: int64(binary.BigEndian.Uint64(b[2:])),
		Proto:  int32(binary.BigEndian.Uint32(b[10:])),
	}
	if b[0] != checkByte {
		return FrameHeader{}, f.fault(fmt.Sprintf("begins with %#02x instead of 0xff: not LCAP, or out of step", b[0]), nil)
	}
	switch {
	case h.Op == FramePeerID:
		if h.Length < 1 || h.Length > MaxPeerIDFrame {
			return FrameHeader{}, f.fault(fmt.Sprintf("PEERID of %d bytes, want 1 to %d", h.Length, MaxPeerIDFrame), nil)
		}
	case h.Op == FrameData:
		if h.Length < 0 || h.Length > f.max {
			return FrameHeader{}, f.fault(fmt.Sprintf("DATA of %d bytes, want 0 to %d", h.Length, f.max), nil)
		}
	case h.Op == FrameClose || f.AllowUnknown:
		h.Length = 0
	default:
		return FrameHeader{}, f.fault(fmt.Sprintf("unknown operation %d", h.Op), nil)
	}
	f.left = h.Length
	return h, nil
}

// Payload reads the whole payload of the frame that NextHeader returned.
func (f *FrameReader) Payload(h FrameHeader) ([]byte, error) {
	const first = 64 << 10
	b := make([]byte, 0, min(h.Length, first))
	for {
		if len(b) == cap(b) {
			if f.left == 0 {
				return b, nil
			}
			// What has arrived is doubled: no more memory than twice the bytes sent.
			b = append(make([]byte, 0, min(h.Length, 2*int64(cap(b))+first)), b...)
		}
		n, err := f.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == io.EOF {
			return b, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// Read reads from the payload of the current frame, up to its end.
func (f *FrameReader) Read(p []byte) (int, error) {
	if f.left == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > f.left {
		p = p[:f.left]
	}
	n, err := f.r.Read(p)
	f.left -= int64(n)
	f.offset += int64(n)
	switch {
	case n > 0:
		return n, nil // the error, if any, comes again
	case err == io.EOF:
		return 0, f.fault(fmt.Sprintf("input ends %d bytes before the end of the payload", f.left), io.ErrUnexpectedEOF)
	case err != nil:
		return 0, f.fault("read payload", err)
	}
	return 0, nil
}

func (f *FrameReader) fault(msg string, err error) error {
	return &FrameError{Offset: f.start, Msg: msg, Err: err}
}
