package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/cenkalti/backoff/v5"

	"pcapdaemon/store"
	"pcapdaemon/text"
	"pcapdaemon/transfer"
)

// maxTags is the number of tags that CloudShark takes.
const maxTags = 30

// uploadTags returns the tags of a capture: all that the first request and its
// host give, where the request's own give way if they are too many, then what
// the others add.
func uploadTags(requesters []requester, node, iface string) []string {
	first := requesters[0].request
	ours := append(first.marks(), "node:"+flat(node), "interface:"+flat(iface))
	tags := first.tags()
	tags = append(tags[:min(len(tags), maxTags-len(ours))], ours...)
	for _, a := range requesters[1:] {
		for _, tag := range slices.Concat(a.request.tags(), a.request.marks()) {
			if len(tags) == maxTags {
				return tags
			}
			if !slices.Contains(tags, tag) {
				tags = append(tags, tag)
			}
		}
	}
	return tags
}

// labels returns what the first request and its host say of a capture, each by its name.
func labels(r request, node, iface string) []store.Label {
	labels := []store.Label{{Name: "node", Value: node}, {Name: "interface", Value: iface}}
	if r.AlertID != nil {
		labels = append(labels, store.Label{Name: "alertid", Value: strconv.FormatUint(*r.AlertID, 10)})
	}
	if r.Customer != "" {
		labels = append(labels, store.Label{Name: "customer", Value: r.Customer})
	}
	return labels
}

// sharkName is what deliveries to CloudShark are counted under.
const sharkName = "cloudshark"

// A cloudshark is a CloudShark appliance or service. The token is part of
// the address, so no error may show it.
type cloudshark struct {
	scheme, host, token string
	agent               string // User-Agent
	client              *transfer.Client
	tries               transfer.Tries
}

// newCloudshark returns the CloudShark of a configuration.
func newCloudshark(c sharkConfig, observer store.Observer) *cloudshark {
	return &cloudshark{scheme: c.scheme, host: c.host, token: c.token, agent: "pcapdaemon/" + version,
		client: transfer.NewClient(c.cas, c.insecure, transfer.NewStallTimeouts(c.timeout)),
		tries:  transfer.Tries{Destination: sharkName, Timeout: c.timeout, Observer: observer}}
}

// Name implements store.Destination.
func (*cloudshark) Name() string { return sharkName }

// Store uploads a capture file. It tries until CloudShark has it, refuses it, or
// the time is up.
func (c *cloudshark) Store(ctx context.Context, r store.File) (store.Place, error) {
	var id string
	err := c.tries.Do(ctx, r, func(ctx context.Context) (err error) {
		id, err = c.post(ctx, r)
		return err
	})
	if err != nil {
		return store.Place{}, fmt.Errorf("upload to %s: %w", c.host, err)
	}
	return store.Place{URL: c.scheme + "://" + c.host + "/captures/" + url.PathEscape(id)}, nil
}

// once returns a CloudShark that tries only once.
func (c *cloudshark) once() *cloudshark {
	once := *c
	once.tries.Single = true
	return &once
}

// post uploads a capture file once and returns its id. Errors that another try
// cannot mend are permanent.
func (c *cloudshark) post(ctx context.Context, r store.File) (string, error) {
	head, tail, contentType := encodeForm(r)
	address, err := url.Parse(c.scheme + "://" + c.host + "/api/v1/" + url.PathEscape(c.token) + "/upload")
	if err != nil {
		return "", backoff.Permanent(errors.New("the address is not valid"))
	}
	answer, err := c.client.Send(ctx, transfer.Request{
		Method: http.MethodPost, Address: address,
		Header: http.Header{"Content-Type": {contentType}, "User-Agent": {c.agent}},
		Body: func() io.Reader {
			return io.MultiReader(bytes.NewReader(head), r.Content(), bytes.NewReader(tail))
		},
		Length: int64(len(head)) + r.Size + int64(len(tail)),
	})
	if err != nil {
		return "", transfer.Redacted(err, c.redact)
	}
	return c.readAnswer(answer)
}

// redact takes the token out of what others say.
func (c *cloudshark) redact(said string) string { return transfer.Redact(said, "<token>", c.token) }

// readAnswer returns the id that CloudShark gave, or what it said instead.
func (c *cloudshark) readAnswer(a transfer.Answer) (string, error) {
	var answer struct {
		ID         string `json:"id"`
		Exceptions []any  `json:"exceptions"`
	}
	isJSON := json.Unmarshal(a.Body, &answer) == nil
	words := a.Reason(c.redact)
	switch {
	case a.Code == http.StatusOK && a.Cut != nil:
		return "", a.Cut
	case a.Code == http.StatusOK && answer.ID != "":
		return answer.ID, nil
	case len(answer.Exceptions) > 0:
		list := make([]string, len(answer.Exceptions))
		for i, exception := range answer.Exceptions {
			list[i] = fmt.Sprint(exception)
		}
		words = text.Printable(c.redact(strings.Join(list, ", ")))
	case isJSON && a.Code == http.StatusOK:
		words = "the answer holds no id"
	}
	return "", a.Failure(words)
}

// encodeForm returns what stands before and after the capture file's content in
// the form that CloudShark takes, and the form's content type.
func encodeForm(r store.File) (head, tail []byte, contentType string) {
	var text bytes.Buffer
	form := multipart.NewWriter(&text)
	// Writing to memory cannot fail.
	_, _ = form.CreateFormFile("file", r.Name)
	split := text.Len()
	_ = form.WriteField("filename", r.Name)
	_ = form.WriteField("additional_tags", strings.Join(r.Tags, ","))
	_ = form.WriteField("comments", r.Comments)
	_ = form.Close()
	return text.Bytes()[:split], text.Bytes()[split:], form.FormDataContentType()
}
