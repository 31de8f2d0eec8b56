# Copyright The Railyard Authors
# SPDX-License-Identifier: Apache-2.0

# The image that manifests/install runs: our programs, static, and nothing else. "make image" builds one like it without Docker.
#
#   docker build --build-arg VERSION=$(git describe --tags --always) -t ghcr.io/railyard-net/railyard:v0.1.0 .
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev TARGETOS TARGETARCH
RUN mkdir -p /out/bin /out/tmp && chmod 1777 /out/tmp \
 && CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false \
    -ldflags "-s -w -X github.com/railyard-net/railyard/cmd/internal/build.version=$VERSION" -o /out/bin/ ./cmd/... \
 && printf 'root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n' >/out/passwd

FROM scratch
COPY --from=build /out/tmp /tmp
COPY --from=build /out/passwd /etc/passwd
COPY --from=build /out/bin/ /usr/local/bin/
USER 65532:65532
