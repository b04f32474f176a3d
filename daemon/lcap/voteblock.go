package lcap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"armarium/daemon/javaprops"
	"armarium/daemon/lockss"
)

// A VoteBlock says what a peer holds of one URL (lcap-v3.md 5.1).
type VoteBlock struct {
	URL      string    // node URL
	Versions []Version // newest first; may be empty
	Type     int       // 0 content; others are never sent
}

// A Version is one version of a URL in a vote block.
type Version struct {
	Unfiltered int64  // bytes as stored
	Filtered   int64  // bytes that were hashed, nonces not counted
	Plain      []byte // H(content)
	Nonced     []byte // H(nonces ‖ content)
	Err        bool   // hashing failed, the digests mean nothing
}

// A HashedBlock is one URL hashed under several challenges at once.
type HashedBlock struct {
	URL      string
	Versions []HashedVersion // newest first
}

// A HashedVersion has one nonced digest for each challenge, in the order of the request.
type HashedVersion struct {
	Unfiltered, Filtered int64
	Plain                []byte
	Nonced               [][]byte
	Err                  bool
}

// VoteBlock returns the block under challenge i. The digests are shared, not copied. Under an
// i that was not hashed the nonced digests are nil.
func (h HashedBlock) VoteBlock(i int) VoteBlock {
	b := VoteBlock{URL: h.URL, Versions: make([]Version, len(h.Versions))}
	for n, v := range h.Versions {
		b.Versions[n] = Version{Unfiltered: v.Unfiltered, Filtered: v.Filtered, Plain: v.Plain, Err: v.Err}
		if i >= 0 && i < len(v.Nonced) {
			b.Versions[n].Nonced = v.Nonced[i]
		}
	}
	return b
}

// MaxBlock is the largest size of an encoded block in bytes: its length is a signed 16-bit
// integer.
const MaxBlock = 1<<15 - 1

// Faults of a stream of vote blocks.
var (
	ErrBlock = errors.New("undecodable vote block")
	ErrOrder = errors.New("vote blocks are not in canonical order")
)

// AppendBlocks writes blocks as they follow the header of a message, each behind its length of
// two bytes. It does not look at their order.
func AppendBlocks(dst []byte, blocks []VoteBlock) ([]byte, error) {
	start := len(dst)
	for _, b := range blocks {
		var err error
		if dst, err = appendBlock(dst, b); err != nil {
			return dst[:start], err
		}
	}
	return dst, nil
}

// ReadBlocks reads a stream of vote blocks to its end, whatever their order. A stream that
// ends inside a length or a block ends before that block. The error says why what follows the
// blocks returned cannot be used; it wraps [ErrBlock].
func ReadBlocks(b []byte) ([]VoteBlock, error) { return readBlocks(b, false) }

func readBlocks(b []byte, ordered bool) ([]VoteBlock, error) {
	var blocks []VoteBlock
	for len(b) >= 2 {
		n := int(int16(binary.BigEndian.Uint16(b)))
		if n <= 0 {
			return blocks, fmt.Errorf("block %d has length %d: %w", len(blocks), n, ErrBlock)
		}
		if b = b[2:]; len(b) < n {
			break
		}
		block, err := decodeBlock(b[:n])
		if err != nil {
			return blocks, fmt.Errorf("block %d: %w", len(blocks), err)
		}
		if ordered && len(blocks) > 0 {
			if last := blocks[len(blocks)-1].URL; lockss.CompareURL(last, block.URL) >= 0 {
				return blocks, fmt.Errorf("block %d, %.200q does not come after %.200q: %w", len(blocks), block.URL, last, ErrOrder)
			}
		}
		blocks = append(blocks, block)
		b = b[n:]
	}
	return blocks, nil
}

func appendBlock(dst []byte, b VoteBlock) ([]byte, error) {
	if len(b.Versions) > MaxVersions {
		return dst, fmt.Errorf("vote block of %s: %d versions: %w", b.URL, len(b.Versions), ErrTooLong)
	}
	var vn strings.Builder
	for i, v := range b.Versions {
		if i > 0 {
			vn.WriteByte('\n')
		}
		vn.WriteString(encodeBase64(javaprops.Append(nil, []string{propComment}, map[string]string{
			"ul":  strconv.FormatInt(v.Unfiltered, 10),
			"uo":  "0",
			"fl":  strconv.FormatInt(v.Filtered, 10),
			"fo":  "0",
			"ph":  encodeBase64(v.Plain),
			"nh":  encodeBase64(v.Nonced),
			"err": strconv.FormatBool(v.Err),
		})))
	}
	start := len(dst)
	dst = append(dst, 0, 0)
	dst = javaprops.Append(dst, []string{propComment}, map[string]string{
		"url": b.URL,
		"vt":  strconv.Itoa(b.Type),
		"vn":  vn.String(),
	})
	n := len(dst) - start - 2
	if n > MaxBlock {
		return dst[:start], fmt.Errorf("vote block of %s: %d bytes with %d versions: %w", b.URL, n, len(b.Versions), ErrTooLong)
	}
	binary.BigEndian.PutUint16(dst[start:], uint16(n))
	return dst, nil
}

// decodeBlock reads one block without its length. Absent keys of a version read as zero.
func decodeBlock(b []byte) (VoteBlock, error) {
	p, err := javaprops.Parse(b)
	if err != nil {
		return VoteBlock{}, fmt.Errorf("%w: %w", ErrBlock, err)
	}
	block := VoteBlock{URL: p["url"], Type: int(intProp(p, "vt", 0, 32))}
	vn, ok := p["vn"]
	if !ok {
		return VoteBlock{}, fmt.Errorf("%.200q has no list of versions: %w", block.URL, ErrBlock)
	}
	if vn == "" {
		return block, nil
	}
	n := strings.Count(vn, "\n") + 1
	if n > MaxVersions {
		return VoteBlock{}, fmt.Errorf("%.200q has %d versions: %w", block.URL, n, ErrBlock)
	}
	block.Versions = make([]Version, 0, n)
	for text := range strings.SplitSeq(vn, "\n") {
		v, err := decodeVersion(text)
		if err != nil {
			return VoteBlock{}, fmt.Errorf("%w: %.200q version %d: %w", ErrBlock, block.URL, len(block.Versions), err)
		}
		block.Versions = append(block.Versions, v)
	}
	return block, nil
}

func decodeVersion(text string) (Version, error) {
	p, err := nestedProps(text)
	if err != nil {
		return Version{}, err
	}
	v := Version{
		Unfiltered: intProp(p, "ul", 0, 64),
		Filtered:   intProp(p, "fl", 0, 64),
		Err:        strings.EqualFold(p["err"], "true"),
	}
	if v.Plain, err = bytesProp(p, "ph"); err != nil {
		return Version{}, err
	}
	if v.Nonced, err = bytesProp(p, "nh"); err != nil {
		return Version{}, err
	}
	return v, nil
}
