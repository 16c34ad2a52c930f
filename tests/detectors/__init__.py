"""Small trained detectors of the shapes of other families than the demo detector, and models made hard on purpose."""
