// AVFoundation's capture exists on Apple's systems only. Nothing in this file has been compiled by edgekit's tests, which
// run on Linux.

#if canImport(UIKit) && canImport(AVFoundation)
import AVFoundation
import EdgeKit

/// The camera of a phone as a stream of frames.
final class CameraFeed: NSObject, @unchecked Sendable {
    let session = AVCaptureSession()
    /// How the screen is held; the preview sets it, frames are turned by it.
    let screen = Mutex(CameraTurn.Screen.portrait)

    // Touched on `queue` alone.
    private let queue = DispatchQueue(label: "edgekit.camera")
    private let output = AVCaptureVideoDataOutput()
    private var side = CameraTurn.Side.back
    private var sink: AsyncThrowingStream<Frame, any Error>.Continuation?
    /// Which stream `sink` is of: the end of an earlier one does not stop it.
    private var number = 0

    override init() {
        super.init()
        output.alwaysDiscardsLateVideoFrames = true
        output.videoSettings = [kCVPixelBufferPixelFormatTypeKey as String: kCVPixelFormatType_32BGRA]
        output.setSampleBufferDelegate(self, queue: queue)
        let center = NotificationCenter.default
        center.addObserver(self, selector: #selector(interrupted), name: .AVCaptureSessionWasInterrupted, object: session)
        center.addObserver(self, selector: #selector(interrupted), name: .AVCaptureSessionRuntimeError, object: session)
    }

    /// Frames of a camera until `stop()`, or until whoever reads them ends. Sizes are near those of models: 640x480.
    ///
    /// The stream throws `EdgeKitError.input` where there is no such camera, and when it is taken away.
    ///
    /// - Throws: `EdgeKitError.input`: the camera is not allowed.
    func frames(of side: CameraTurn.Side) async throws -> AsyncThrowingStream<Frame, any Error> {
        guard await AVCaptureDevice.requestAccess(for: .video) else {
            throw EdgeKitError.input("the camera is not allowed; allow it in Settings, Privacy, Camera")
        }
        let (frames, sink) = AsyncThrowingStream<Frame, any Error>.makeStream(bufferingPolicy: .bufferingNewest(1))
        queue.async { self.begin(side, sink) }
        return frames
    }

    func stop() {
        queue.async { self.end() }
    }

    private func end() {
        sink?.finish()
        sink = nil
        session.stopRunning()
    }

    private func begin(_ side: CameraTurn.Side, _ sink: AsyncThrowingStream<Frame, any Error>.Continuation) {
        self.sink?.finish()
        guard let device = AVCaptureDevice.default(.builtInWideAngleCamera, for: .video, position: side == .front ? .front : .back),
            let input = try? AVCaptureDeviceInput(device: device)
        else {
            self.sink = nil
            return sink.finish(throwing: EdgeKitError.input("this device has no \(side.rawValue) camera; choose the other one, or a picture"))
        }
        (self.side, self.sink, number) = (side, sink, number + 1)
        let own = number
        sink.onTermination = { [weak self] _ in
            self?.queue.async { if self?.number == own { self?.end() } }
        }
        session.beginConfiguration()
        session.sessionPreset = .vga640x480
        session.inputs.forEach(session.removeInput)
        if session.canAddInput(input) { session.addInput(input) }
        if session.outputs.isEmpty && session.canAddOutput(output) { session.addOutput(output) }
        session.commitConfiguration()
        session.startRunning()
    }

    @objc private func interrupted() {
        queue.async {
            self.sink?.finish(throwing: EdgeKitError.input("the camera was taken away, by a call or another app; start it again"))
            self.sink = nil
        }
    }
}

extension CameraFeed: AVCaptureVideoDataOutputSampleBufferDelegate {
    func captureOutput(_ output: AVCaptureOutput, didOutput sample: CMSampleBuffer, from connection: AVCaptureConnection) {
        guard let sink, let buffer = CMSampleBufferGetImageBuffer(sample) else { return }
        let turn = CameraTurn(side, held: screen.withLock { $0 })
        do {
            sink.yield(
                try Frame(
                    pixelBuffer: buffer, orientation: turn.orientation, mirrored: turn.isMirrored,
                    time: CMSampleBufferGetPresentationTimeStamp(sample).seconds))
        } catch {
            sink.finish(throwing: error)
            self.sink = nil
        }
    }
}
#endif
